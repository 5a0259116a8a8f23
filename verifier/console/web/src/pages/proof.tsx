import { useState } from 'preact/hooks'
import { check, type Report } from '../core'
import { Badge, Trouble } from '../widgets'

const most = 4 << 20 // bytes of a paste

export default function Proof() {
  const [file, setFile] = useState('')
  const [trust, setTrust] = useState('')
  const [report, setReport] = useState<Report>()
  const [trouble, setTrouble] = useState('')
  const run = async () => {
    setReport(undefined); setTrouble('')
    const raw = new TextEncoder().encode(file)
    if (!raw.length) return setTrouble('Paste a bundle first: what `writ bundle` wrote, or GET /v1/nodes/ID/bundle.')
    if (raw.length > most) return setTrouble(`This is ${(raw.length / 1048576).toFixed(1)} MiB; a bundle is at most ${most >> 20} MiB here. Use \`writ verify\` for larger ones.`)
    try { setReport(await check(raw, trust.trim())) } catch (e) { setTrouble((e as Error).message) }
  }
  return <>
    <h1>Check a proof</h1>
    <p class="soft">Everything is checked here, in your browser; nothing is sent. Whose keys count is for you to say.</p>
    <label for="bundle">Bundle</label>
    <textarea id="bundle" rows={8} spellcheck={false} value={file} onInput={e => setFile(e.currentTarget.value)} />
    <label for="trust">Trust file (without one, no signer is checked)</label>
    <textarea id="trust" rows={4} spellcheck={false} value={trust} onInput={e => setTrust(e.currentTarget.value)} />
    <p><button type="button" onClick={run}>Check</button> <span class="soft">or <code>writ verify bundle.json --trust trust.json</code></span></p>
    <div aria-live="polite">
      {trouble && <Trouble>{trouble}</Trouble>}
      {report && <Result report={report} />}
    </div>
  </>
}

function Result({ report }: { report: Report }) {
  return <>
    <h2>Result: <Badge state={report.result} /></h2>
    {report.verdict && <p>The verdict is <b>{report.verdict.decision}</b> until {report.verdict.until}.</p>}
    <div class="scroll" tabIndex={0} role="region" aria-label="Checks"><table>
      <thead><tr><th scope="col">Check</th><th scope="col">Result</th><th scope="col">What was looked at</th></tr></thead>
      <tbody>{report.checks.map(c => <tr key={c.name}><th scope="row">{c.name}</th><td><Badge state={c.result} /></td><td><code>{c.detail}</code></td></tr>)}</tbody>
    </table></div>
  </>
}
