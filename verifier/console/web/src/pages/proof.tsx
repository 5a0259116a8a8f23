import { useEffect, useState } from 'preact/hooks'
import { check, type Check, type Report } from '../core'
import { fetchDemo, fetchEntry, fetchPeer } from '../log'
import { Badge, Source, Trouble, type Given } from '../widgets'

const offline = location.protocol === 'file:'
const pinned = 'writ-trust' // in this browser's storage

export default function Proof() {
  const [file, setFile] = useState<Given>('')
  const [trust, setTrust] = useState<Given>(() => kept() ?? '')
  const [pin, setPin] = useState(() => kept() !== null)
  const [entry, setEntry] = useState<Given>('')
  const [report, setReport] = useState<Report>()
  const [trouble, setTrouble] = useState('')
  const [busy, setBusy] = useState(false)
  const run = async (file: Given, trust: Given, entry: Given) => {
    setReport(undefined); setTrouble('')
    const raw = new Blob([file])
    if (!raw.size) return setTrouble('Paste or choose something to check first: what `writ bundle`, `writ token` or `writ log prove` wrote, or the index of an entry.')
    setBusy(true)
    try {
      const index = typeof file === 'string' && /^\s*\d{1,15}\s*$/.test(file)
      const found = index ? await lookUp(Number(file)) : { receipt: raw, entry: await text(entry) }
      const keys = (await text(trust)).trim()
      setReport(await check(new Blob([found.receipt]), keys, found.entry))
      keep(pin ? keys : '')
    } catch (e) { setTrouble((e as Error).message) }
    setBusy(false)
  }
  useEffect(() => { // #12 is entry 12 of this verifier's log, #demo/12 of the demonstration's, #peer/NAME/12 of a recognised domain's
    const show = async () => {
      const [, demo, peer, id] = /^#(demo\/|peer\/([\w.-]{1,255})\/)?(\d{1,15}b?)$/.exec(location.hash) ?? []
      if (!id) return
      if (!demo) { setFile(id); return run(id, trust, '') }
      setReport(undefined); setTrouble('')
      try {
        const found = await (peer ? fetchPeer(peer, id) : fetchDemo(id))
        setFile(found.receipt); setEntry(found.entry); setTrust(found.trust); setPin(false)
        await run(found.receipt, found.trust, found.entry)
      } catch (e) { setTrouble((e as Error).message) }
    }
    void show()
    addEventListener('hashchange', show)
    return () => removeEventListener('hashchange', show)
  }, [])
  return <>
    <h1>Check a proof</h1>
    <p class="soft">Everything is checked here, in your browser; what you give is not sent. Whose keys count is for you to say.{!offline && ' This page comes from the verifier: a copy that you saved earlier does not.'}</p>
    <div class="pair">
      <div>
        <Source id="bundle" label="Bundle, token, receipt or index" rows={9} value={file} set={setFile} />
        {typeof file === 'string' && file.trimStart().startsWith('c2sp.org/tlog-proof@') || file instanceof File && file.size < small && !/json$/.test(file.name)
          ? <Source id="entry" label="The log's entry that the receipt proves" rows={3} value={entry} set={setEntry} /> : null}
      </div>
      <div>
        <Source id="trust" label="Trust file (without one, no signer is checked)" rows={9} value={trust} set={setTrust} />
        <label class="choice"><input type="checkbox" checked={pin} onChange={e => { setPin(e.currentTarget.checked); if (!e.currentTarget.checked) keep('') }} /> Pin: keep this trust file in this browser</label>
      </div>
    </div>
    <p class="acts"><button type="button" class="main" disabled={busy} onClick={() => run(file, trust, entry)}>{busy ? 'Checking' : 'Check'}</button>
      {document.getElementById('app')!.dataset.core && <a href="/assets/writ-proof.html" download="writ-proof.html">Save this page, to check without the verifier</a>}</p>
    <div aria-live="polite" aria-busy={busy}>
      {trouble && <Trouble>{trouble}</Trouble>}
      {report && <Result report={report} />}
    </div>
  </>
}

/** What was pinned, or null. Browsers may refuse storage to a page. */
function kept() { try { return localStorage.getItem(pinned) } catch { return null } }
function keep(trust: string) { try { if (trust) localStorage.setItem(pinned, trust); else localStorage.removeItem(pinned) } catch { /* not kept */ } }

async function lookUp(index: number) {
  if (offline) throw new Error('An index is looked up in a verifier\'s log, and this saved page asks nobody. Paste the receipt (writ log prove INDEX) and its entry.')
  return fetchEntry('', index)
}

const small = 4 << 20 // bytes of a trust file, an entry
async function text(given: Given) {
  if (new Blob([given]).size > small) throw new Error(`The trust file or the entry is larger than ${small >> 20} MiB: it is something else.`)
  return typeof given === 'string' ? given : given.text()
}

function Result({ report: r }: { report: Report }) {
  return <section aria-label="Result">
    <h2>The {r.kind}: <Badge state={r.result} /></h2>
    {r.verdict && <p>The verdict is <b>{r.verdict.decision}</b> until <time>{r.verdict.until}</time>{r.checks.some(c => c.name === 'signer') && ', by its own word'}.</p>}
    {r.command && <p class="soft">The same on your machine: <code>{r.command}</code></p>}
    <Checks name="Checks" of={r.checks} />
    {r.steps && <details open><summary>The appraisal, step by step</summary><Checks name="Steps" of={r.steps} /></details>}
  </section>
}

/** On a narrow page each row is stacked, and says by its roles that it is still a row. */
function Checks({ name, of }: { name: string; of: Check[] }) {
  return <div class="scroll" tabIndex={0} role="region" aria-label={name}><table role="table" class="stack">
    <thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Check</th><th role="columnheader" scope="col">Result</th><th role="columnheader" scope="col">What was looked at</th></tr></thead>
    <tbody role="rowgroup">{of.map((c, i) => <tr key={i} role="row"><th role="rowheader" scope="row">{c.name}</th><td role="cell"><Badge state={c.result} /></td><td role="cell" class="detail">{c.detail}</td></tr>)}</tbody>
  </table></div>
}
