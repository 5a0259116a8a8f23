/** The checking core: Go's, compiled to WebAssembly, run here and nowhere else. */
export interface Check { name: string; result: string; detail: string }
export interface Report {
  kind: string; command: string; result: string; checks: Check[]; steps?: Check[]
  verdict: { decision: string; until: string } | null
}

declare global {
  var Go: new () => { importObject: WebAssembly.Imports; run(i: WebAssembly.Instance): Promise<void> }
  var writCheck: (file: Uint8Array, trust: string, entry: string) => string
  var writMost: number
}

/** The core of a saved page is within it, packed; a server's page fetches it. */
const saved = document.getElementById('core')

let started: Promise<void> | undefined

async function start() {
  const wasm = saved ? unpack(saved.textContent!) : await fetch('/assets/core/writ.wasm').catch(() => { throw new Error('The checking core could not be loaded: the verifier does not answer. Save this page while it does, to check without it.') })
  if (!wasm.ok) throw new Error('The checking core is not part of this writd. Whoever builds it: run `make build`, which compiles the core to WebAssembly.')
  if (!saved) await new Promise<void>((ok, no) => {
    const s = document.createElement('script')
    s.src = '/assets/core/wasm_exec.js'
    s.onload = () => ok()
    s.onerror = () => no(new Error('The checking core could not be loaded. Load the page again.'))
    document.head.append(s)
  })
  const go = new Go()
  const { instance } = await WebAssembly.instantiate(await wasm.arrayBuffer(), go.importObject)
  void go.run(instance)
}

function unpack(base64: string) {
  const packed = Uint8Array.from(atob(base64), c => c.charCodeAt(0))
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip')))
}

/** Throws an error whose message is for the reader: too large, or nothing that the core knows. */
export async function check(file: Blob, trust: string, entry: string): Promise<Report> {
  await (started ??= start().catch(e => { started = undefined; throw e }))
  if (file.size > writMost) throw new Error(`This is ${(file.size / 1048576).toFixed(1)} MiB; a bundle is at most ${writMost / 1048576} MiB.`)
  const raw = new Uint8Array(await file.arrayBuffer())
  const r = JSON.parse(writCheck(raw, trust, entry)) as Report & { error?: string }
  if (r.error) throw new Error(r.error)
  return r
}
