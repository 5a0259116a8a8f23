import { useState } from 'preact/hooks'
import { check, type Check, type Report } from '../core'
import { Badge, Source, Trouble, type Given } from '../widgets'

export default function Proof() {
  const [file, setFile] = useState<Given>('')
  const [trust, setTrust] = useState<Given>('')
  const [entry, setEntry] = useState<Given>('')
  const [report, setReport] = useState<Report>()
  const [trouble, setTrouble] = useState('')
  const [busy, setBusy] = useState(false)
  const run = async () => {
    setReport(undefined); setTrouble('')
    const raw = new Blob([file])
    if (!raw.size) return setTrouble('Paste or choose something to check first: what `writ bundle`, `writ token` or `writ log prove` wrote.')
    setBusy(true)
    try { setReport(await check(raw, (await text(trust)).trim(), await text(entry))) } catch (e) { setTrouble((e as Error).message) }
    setBusy(false)
  }
  return <>
    <h1>Check a proof</h1>
    <p class="soft">Everything is checked here, in your browser; nothing is sent. Whose keys count is for you to say.</p>
    <Source id="bundle" label="Bundle, token or receipt" rows={8} value={file} set={setFile} />
    {typeof file === 'string' && file.trimStart().startsWith('c2sp.org/tlog-proof@') || file instanceof File && !/json$/.test(file.name)
      ? <Source id="entry" label="The log's entry that the receipt proves" rows={3} value={entry} set={setEntry} /> : null}
    <Source id="trust" label="Trust file (without one, no signer is checked)" rows={4} value={trust} set={setTrust} />
    <p><button type="button" disabled={busy} onClick={run}>{busy ? 'Checking' : 'Check'}</button></p>
    <div aria-live="polite">
      {trouble && <Trouble>{trouble}</Trouble>}
      {report && <Result report={report} />}
    </div>
  </>
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

function Checks({ name, of }: { name: string; of: Check[] }) {
  return <div class="scroll" tabIndex={0} role="region" aria-label={name}><table>
    <thead><tr><th scope="col">Check</th><th scope="col">Result</th><th scope="col">What was looked at</th></tr></thead>
    <tbody>{of.map((c, i) => <tr key={i}><th scope="row">{c.name}</th><td><Badge state={c.result} /></td><td class="detail">{c.detail}</td></tr>)}</tbody>
  </table></div>
}
