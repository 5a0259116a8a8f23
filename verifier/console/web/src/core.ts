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

let started: Promise<void> | undefined

async function start() {
  const wasm = await fetch('/assets/core/writ.wasm')
  if (!wasm.ok) throw new Error('The checking core is not part of this writd. Whoever builds it: run `make build`, which compiles the core to WebAssembly.')
  await new Promise<void>((ok, no) => {
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

/** Throws an error whose message is for the reader: too large, or nothing that the core knows. */
export async function check(file: Blob, trust: string, entry: string): Promise<Report> {
  await (started ??= start().catch(e => { started = undefined; throw e }))
  if (file.size > writMost) throw new Error(`This is ${(file.size / 1048576).toFixed(1)} MiB; a bundle is at most ${writMost / 1048576} MiB.`)
  const raw = new Uint8Array(await file.arrayBuffer())
  const r = JSON.parse(writCheck(raw, trust, entry)) as Report & { error?: string }
  if (r.error) throw new Error(r.error)
  return r
}
