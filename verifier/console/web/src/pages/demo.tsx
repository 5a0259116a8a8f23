import { useEffect, useState } from 'preact/hooks'
import { Badge, Heard, said, Trouble } from '../widgets'

/** One event of /demo/state: cmd/writ/stage_view.go says what is in it. */
interface View {
  doing: string; now: string; acts: string[]; life: number; level: string; verifier: string; job: string
  node: { id: string; boot: string; status: string; state: string; deadline: number } | null
  story: Chapter[]; log: Line[]
}
interface Chapter {
  act: string; title: string; text: string; at: number; took_ms: number; proof: string[] | null; trouble: string
  stop: { dead_ms: number; cause: string; latency_us: number; confirmed: boolean } | null
}
interface Line { id: string; index: number; kind: string; at: number; text: string; other: boolean }

const acts: [act: string, name: string, what: string][] = [
  ['tamper', 'Tamper with the boot', 'A program that nobody knows is measured, as if firmware had loaded it.'],
  ['revoke', 'Revoke the node', 'An operator ends every token of the node.'],
  ['stop', 'Kill the verifier', 'Nobody is left to renew the token, or to say no.'],
  ['split', 'Split the history', 'The verifier is put back to a snapshot and tells another history.'],
  ['work', 'Start the job again', 'The node is still legitimate: it may.'],
]

const quiet = 12_000 // ms: writ dev says how things are every 5 s

export default function Demo() {
  const [v, setView] = useState<View>()
  const [heard, setHeard] = useState(0) // ms
  const [lost, setLost] = useState(false)
  const [trouble, setTrouble] = useState('')
  useEffect(() => {
    let events: EventSource, again = 0, silence = 0
    const listen = () => {
      events = new EventSource('/demo/state')
      events.onmessage = e => { setView(JSON.parse(e.data) as View); setHeard(Date.now()); setLost(false); wait() }
      events.onerror = () => {
        setLost(true)
        if (events.readyState === EventSource.CLOSED) again = window.setTimeout(listen, 3000) // it was answered, but not by writ dev
      }
    }
    const wait = () => { clearTimeout(silence); silence = window.setTimeout(() => setLost(true), quiet) }
    listen()
    return () => { events.close(); clearTimeout(again); clearTimeout(silence) }
  }, [])
  const act = async (name: string) => {
    setTrouble('')
    try {
      const r = await fetch(`/demo/acts/${name}`, { method: 'POST', headers: { 'Content-Type': 'application/json', 'Writ-Demo': '1' }, body: '{}' })
      if (!r.ok) setTrouble(((await r.json().catch(() => ({}))) as { detail?: string }).detail ?? `The demonstration answered ${r.status}.`)
    } catch { setTrouble('That was not heard: writ dev does not answer.') }
  }
  return <>
    <h1>Work runs only while its machine is proven</h1>
    <p class="soft">A real software TPM, a real verifier, a real job, in a domain of their own on this machine. Start them, do harm, and watch the job stop. Each stop is measured, and an entry of a signed log proves it.</p>
    {trouble && <Trouble>{trouble}</Trouble>}
    <Heard why={lost ? 'writ dev does not answer; if it has ended, start it again.' : undefined} at={heard}>
      {v ? <Stage v={v} lost={lost} act={act} /> : !lost && <p class="soft" role="status">Looking at the stage.</p>}
    </Heard>
  </>
}

function Stage({ v, lost, act }: { v: View; lost: boolean; act: (name: string) => void }) {
  const may = (a: string) => !lost && v.acts.includes(a)
  const begun = v.node || v.doing || v.story.length > 0
  return <>
    <div class="acts">
      <button type="button" class="main" disabled={!may('start')} onClick={() => act('start')}>{begun ? 'Begin again' : 'Start a node'}</button>
      <span role="status" class="soft">{v.doing ? `${v.now || 'beginning'} …` : begun ? '' : `Tokens live ${v.life} seconds here; enforcement level ${v.level}.`}</span>
    </div>
    {begun && <>
      <Parts v={v} lost={lost} />
      <h2>Do something to it</h2>
      <ul class="choices">{acts.map(([a, name, what]) => <li key={a}><button type="button" disabled={!may(a)} onClick={() => act(a)} aria-describedby={`what-${a}`}>{name}</button><span id={`what-${a}`} class="soft">{what}</span></li>)}</ul>
      <div class="beside"><div>
      <h2 id="story">What happened</h2>
      <ol class="story" aria-labelledby="story" aria-live="polite">{v.story.map((c, i) => <li key={c.at + i}><Told c={c} v={v} /></li>).reverse()}</ol>
      </div>
      {v.log.length > 0 && <Log v={v} />}
      </div>
    </>}
  </>
}

/** The three parts: verifier, node and its token, job. */
function Parts({ v, lost }: { v: View; lost: boolean }) {
  const left = useLeft(v.node?.deadline ?? 0)
  const live = v.node && !lost && left > 0 && v.node.state !== 'fail-closed-restricted'
  return <dl class="parts">
    <div><dt>Verifier</dt><dd>{v.verifier ? <Badge state={v.verifier} /> : '–'}<span class="soft">signs tokens, keeps the log</span></dd></div>
    <div><dt>Node</dt><dd>{v.node ? <><Badge state={v.node.state} /><span class="soft">{v.node.status}, <code>{v.node.id.slice(0, 8)}</code>, booted {v.node.boot}</span></> : '–'}</dd></div>
    <div><dt>Token</dt><dd>{v.node ? <><Badge state={live || lost ? 'valid' : 'lapsed'} /><progress aria-label="What is left of the token's life" max={v.life} value={live ? Math.min(left, v.life) : 0} /><span class="soft">{live ? `${left.toFixed(1)} s left of ${v.life}` : lost ? 'whether it was renewed is not known' : 'no work may run on it'}</span></> : '–'}</dd></div>
    <div><dt>Job</dt><dd>{v.job ? <Badge state={v.job} /> : '–'}<span class="soft">a program and four daemons that ignore signals</span></dd></div>
  </dl>
}

/** Seconds until a moment, counted ten times a second. */
function useLeft(deadline: number) {
  const [now, tick] = useState(() => Date.now())
  useEffect(() => {
    const t = setInterval(() => tick(Date.now()), 100)
    return () => clearInterval(t)
  }, [])
  return Math.max(0, deadline - now / 1000)
}

const took = (ms: number) => ms < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(1)} s`
const causes: Record<string, string> = { revoked: 'by a signed order', denied: 'by a signed denial', deadline: 'at its deadline' }

function Told({ c, v }: { c: Chapter; v: View }) {
  return <article>
    <h3>{c.title || 'It did not come to its end'} <time class="soft">{new Date(c.at).toLocaleTimeString('en-GB')}</time></h3>
    {c.stop && <p class="measured"><strong>{took(c.stop.dead_ms)}</strong> until the last process was gone, {said(causes, c.stop.cause) ?? c.stop.cause}. The keeper measured {(c.stop.latency_us / 1000).toFixed(1)} ms from order or deadline to the end, {c.stop.confirmed ? 'and found nothing left.' : 'and could not confirm that nothing is left.'}</p>}
    {c.text && <p>{c.text}</p>}
    {c.trouble && <Trouble>{c.trouble}</Trouble>}
    {c.proof && c.proof.length > 0 && <p class="proof">Proof: {c.proof.map(id => {
      const l = v.log.find(l => l.id === id)
      return l && <><a key={id} class="chip" href={`/proof#demo/${id}`}>entry {l.index}{l.other ? ' of the other history' : ''}: {l.kind}</a> </>
    })}</p>}
  </article>
}

function Log({ v }: { v: View }) {
  return <details open><summary>The log, {v.log.length} entries</summary>
    <div class="scroll" tabIndex={0} role="region" aria-label="Log"><table role="table" class="stack">
      <thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Entry</th><th role="columnheader" scope="col">At</th><th role="columnheader" scope="col">Kind</th><th role="columnheader" scope="col">What it records</th></tr></thead>
      <tbody role="rowgroup">{v.log.map(l => <tr key={l.id} role="row">
        <td role="cell"><a href={`/proof#demo/${l.id}`}>{l.index}{l.other ? ', other history' : ''}</a></td>
        <td role="cell"><time>{new Date(l.at * 1000).toLocaleTimeString('en-GB')}</time></td>
        <td role="cell" class="full"><code>{l.kind}</code></td><td role="cell" class="full">{l.text}</td>
      </tr>).reverse()}</tbody>
    </table></div>
  </details>
}
