import type { ComponentChildren } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { figure, moment } from '../charts'
import { useLoaded } from '../fetch'
import { boxHeight, boxWidth, place, type Arrow, type Box } from '../graph'
import { Badge, Heard, said } from '../widgets'

interface Run {
  exec: string; parent?: string; node: string; workload?: string; workload_basis: string; level: string; entry: number
  started: number; expires: number; last: number; tokens: number; ended: boolean; base: number; end?: number; cause?: string; confirmed?: boolean; latency_us?: number; children: number
}
interface Found { size: number; read: number; executions: Run[]; more: boolean }
interface Token { jti: string; aud: string; exp: number; seq: number; prev: string; jkt: string; level: string; epoch: number; base?: number; wl_basis?: string }
interface Decision { decision: string; tier: string; at: number; evidence: string; references: string; from: string; to: string; token?: Token }
interface Stop { cause: string; confirmed: boolean; latency_us: number; level: string; admitted?: number }
interface Event { event: 'authorized' | 'admitted' | 'renewed' | 'terminated'; index: number; at: number; actor: string; data: unknown }
interface Execution {
  id: string; parent?: string; children: string[]; node: string; workload?: string; workload_basis: string; keeper?: string; keeper_basis: string
  image?: string; image_basis: string; level: string; ended: boolean; events: Event[]; domain?: string
}
interface Peer { domain: string; size: number; seen: number; read: number; why?: string; parent: boolean; children: Run[] }
interface Told { now: number; lineage: { domain: string; execution: Execution; parents: Execution[] }; children: Run[]; omitted: number; gone: number; peers: Peer[] }

const every = 5000
const open = (document.getElementById('app')?.dataset.pages ?? '').split(' ')

/** What the address of the page asks for. */
function useAddress(): [URLSearchParams, (next: Record<string, string>) => void] {
  const [query, set] = useState(location.search)
  useEffect(() => {
    const back = () => set(location.search)
    addEventListener('popstate', back)
    return () => removeEventListener('popstate', back)
  }, [])
  return [new URLSearchParams(query), next => {
    const text = new URLSearchParams(Object.entries(next).filter(([, v]) => v)).toString()
    history.pushState(null, '', text ? `/lineage?${text}` : '/lineage')
    set(location.search)
    scrollTo(0, 0)
  }]
}

export default function Page() {
  const [at, go] = useAddress()
  const exec = at.get('exec')
  return exec ? <Lineage exec={exec} go={go} /> : <Search at={at} go={go} />
}

type Go = (next: Record<string, string>) => void

function To({ exec, go, children }: { exec: string; go: Go; children?: ComponentChildren }) {
  return <a href={`/lineage?exec=${encodeURIComponent(exec)}`} onClick={e => { if (!e.ctrlKey && !e.metaKey && !e.shiftKey) { e.preventDefault(); go({ exec }) } }}>{children ?? exec}</a>
}

function Search({ at, go }: { at: URLSearchParams; go: Go }) {
  const field = (name: string) => at.get(name) ?? ''
  const [before, setBefore] = useState<number[]>([]) // of the pages that were turned
  const asked = new URLSearchParams()
  for (const name of ['q', 'node']) if (field(name)) asked.set(name, field(name))
  for (const name of ['from', 'to']) { const s = Date.parse(`${field(name)}Z`) / 1000; if (s > 0) asked.set(name, String(s)) }
  if (before.length) asked.set('before', String(before[before.length - 1]))
  const { value: found, at: heard, trouble } = useLoaded<Found>(`/v1/public/executions?${asked}`, every)
  const submit = (e: SubmitEvent) => {
    e.preventDefault()
    setBefore([])
    go(Object.fromEntries([...new FormData(e.currentTarget as HTMLFormElement)].map(([k, v]) => [k, String(v).trim()])))
  }
  return <>
    <h1>Lineage</h1>
    <p class="soft">Every execution that the log knows: who let it run, on what evidence, what it started, and how it ended.</p>
    <form role="search" class="search" id="search" onSubmit={submit} key={at.toString()}>
      <div><label for="q">Execution</label><input id="q" name="q" type="search" placeholder="Its id, or a part of it" maxLength={64} defaultValue={field('q')} /></div>
      <div><label for="node">Node</label><input id="node" name="node" type="search" placeholder="Id, or pseudonym in the log" maxLength={64} defaultValue={field('node')} /></div>
      <div><label for="from">Lived after (UTC)</label><input id="from" name="from" type="datetime-local" defaultValue={field('from')} /></div>
      <div><label for="to">Lived before (UTC)</label><input id="to" name="to" type="datetime-local" defaultValue={field('to')} /></div>
      <p><button id="find" class="main">Search</button> {at.size > 0 && <button id="all" type="button" onClick={() => { setBefore([]); go({}) }}>Show all</button>}</p>
    </form>
    <Heard why={trouble} at={heard}>{found ? <Results found={found} searched={at.size > 0 || before.length > 0} go={go} /> : !trouble && <p class="soft" role="status" aria-busy="true">Searching.</p>}</Heard>
    {found && (found.more || before.length > 0) && <p class="acts">
      {before.length > 0 && <button id="later" type="button" onClick={() => setBefore(before.slice(0, -1))}>Later ones</button>}
      {found.more && <button id="earlier" type="button" onClick={() => setBefore([...before, found.executions[found.executions.length - 1].entry])}>Earlier ones</button>}
    </p>}
  </>
}

function Results({ found, searched, go }: { found: Found; searched: boolean; go: Go }) {
  const behind = found.read < found.size && <p class="soft" role="status">The verifier is still reading its log: {figure(found.read)} of {figure(found.size)} entries. There may be more to find.</p>
  if (!found.executions.length) return <>{behind}<p id="none">{searched ? 'No execution fits.' : <>No execution is in the log yet. <code>writ run -- COMMAND</code> on a node starts one.</>}</p></>
  return <>{behind}
    <div class="scroll" tabIndex={0} role="region" aria-label="Executions found"><table id="executions">
      <thead><tr><th scope="col">Execution</th><th scope="col">State</th><th scope="col">Started</th><th scope="col">Last entry</th><th scope="col">Workload</th><th scope="col">Level</th><th scope="col">Tokens</th><th scope="col">Children</th><th scope="col">Node</th></tr></thead>
      <tbody>{found.executions.map(r => <tr key={r.exec}>
        <th scope="row"><To exec={r.exec} go={go} /></th><td><Badge state={stateOf(r)} />{r.cause && <> <span class="soft">{r.cause}</span></>}</td>
        <td><time>{moment(r.started)}</time></td><td><time>{moment(r.last)}</time></td><td><Badge state={r.workload_basis} /></td><td>{r.level}</td>
        <td>{figure(r.tokens)}</td><td>{figure(r.children)}</td><td class="whole"><code>{r.node}</code></td>
      </tr>)}</tbody>
    </table></div></>
}

/** Whether an execution goes on: while its last token lives it may, and then somebody should have said how it ended. */
function stateOf(r: { ended: boolean; expires: number }, now = Date.now() / 1000) { return r.ended ? 'ended' : r.expires > now ? 'running' : 'unreported' }

const causes: Record<string, string> = {
  exited: 'The work ended by itself.', 'not-started': 'The work could not be started.', deadline: 'Its token was not renewed in time.',
  revoked: 'A signed revocation reached the node.', denied: 'A renewal was denied.', 'init-died': 'Somebody killed the first process of its namespace.',
  'prove-halt': 'There was no work: the node showed that it can halt some.', 'keeper-killed': 'Its keeper vanished; the node’s agent says so, and nobody confirms what is left.',
}

const tokenOf = (e: Event): Token | undefined => e.event === 'authorized' || e.event === 'terminated' ? undefined : (e.data as Decision).token ?? e.data as Token
const expiry = (x: Execution) => Math.max(0, ...x.events.map(e => tokenOf(e)?.exp ?? 0))

function Lineage({ exec, go }: { exec: string; go: Go }) {
  const { value: told, at, trouble } = useLoaded<Told>(`/v1/public/lineage?exec=${encodeURIComponent(exec)}`, every)
  return <>
    <p><a href="/lineage" onClick={e => { e.preventDefault(); go({}) }}>All executions</a></p>
    <h1>Execution <code id="exec">{exec}</code></h1>
    <Heard why={trouble} at={at}>{told ? <Life told={told} go={go} /> : !trouble && <p class="soft" role="status" aria-busy="true">Reading the log.</p>}</Heard>
  </>
}

function Life({ told, go }: { told: Told; go: Go }) {
  const { execution: x, parents, domain } = told.lineage
  const stop = x.events.find(e => e.event === 'terminated')?.data as Stop | undefined
  const state = stateOf({ ended: x.ended, expires: expiry(x) }, told.now)
  return <>
    <div class="acts"><span id="state"><Badge state={state} /></span> <Exports exec={x.id} workload={!!x.workload} /></div>
    <p>{stop ? <>{said(causes, stop.cause) ?? <>Cause: {stop.cause}.</>} {stop.confirmed ? `Its keeper confirms that nothing of it is left${after(stop)}.` : ''}</>
      : state === 'running' ? <>It may run until <time>{moment(expiry(x))}</time>, and longer if its token is renewed.</>
        : <>Its last token ended <time>{moment(expiry(x))}</time>, and with it the work; nobody has reported the end.</>}</p>
    <dl class="figures across" id="facts">
      <Fact name="Workload" digest={x.workload} basis={x.workload_basis} />
      <Fact name="Keeper" digest={x.keeper} basis={x.keeper_basis} />
      <Fact name="Image" digest={x.image} basis={x.image_basis} />
      <div><dt>Node</dt><dd><code>{x.node}</code>, pseudonym in the log of {domain}</dd></div>
      <div><dt>Enforcement level</dt><dd>{x.level}, as the node says</dd></div>
      <div><dt>Started by</dt><dd><Starter of={told} go={go} /></dd></div>
    </dl>
    {told.omitted > 0 && <p class="soft" role="status">{figure(told.omitted)} entries in the middle are not listed here; <code>writ lineage export</code> writes all of them.</p>}
    {told.gone > 0 && <p class="soft" role="status">Retention gave up {figure(told.gone)} of the entries; their proofs remain.</p>}
    <h2>As a graph</h2>
    <Picture told={told} go={go} />
    <h2>As a list</h2>
    <Entries of={x} />
    <Abroad of={told} />
    <h2>Started by it</h2>
    {told.children.length ? <ul id="children">{told.children.map(c => <li key={c.exec}><To exec={c.exec} go={go} />, <Badge state={stateOf(c, told.now)} />, since <time>{moment(c.started)}</time> on {c.node === x.node ? 'the same node' : <>node <code>{c.node}</code></>}</li>)}</ul> : <p class="soft">Nothing that this log knows{told.peers.some(p => p.children.length) ? '; what other domains have started is above' : ''}.</p>}
  </>
}

function Starter({ of: { lineage: { execution: x, parents }, peers }, go }: { of: Told; go: Go }) {
  if (!x.parent) return <>nothing that the log knows</>
  if (parents[0]?.domain) return <><a href="#abroad"><code>{x.parent}</code></a>, of {parents[0].domain}</>
  if (parents.length) return <To exec={x.parent} go={go} />
  return <><code>{x.parent}</code>, which this log does not know, nor one of {peers.length ? `the ${figure(peers.length)} other domains that are recognised` : 'another domain, since none is recognised'}: it may be of a stranger, or older than the logs keep</>
}

/** What the logs of other domains say: that it stands there is proven, that it is so is their word. */
function Abroad({ of: { lineage: { parents }, peers, now } }: { of: Told }) {
  const above = parents.filter(p => p.domain)
  const quiet = peers.filter(p => p.why)
  if (!above.length && !peers.some(p => p.children.length)) return quiet.length ? <p class="soft" id="quiet">{quiet.map(p => <span key={p.domain}>Nothing is told of {p.domain}: {p.why}. </span>)}</p> : null
  const entries = (domain: string, of: [string, number | undefined][]) => of.filter(([, i]) => i !== undefined).map(([name, i]) => <span key={name} class="entry block">{name} {i} (<Far domain={domain} index={i!} />)</span>)
  return <section id="abroad" aria-labelledby="abroad-title" tabIndex={-1}>
    <h2 id="abroad-title">In other domains</h2>
    <p class="reading"><b>Proven:</b> each entry stands in that domain’s log, under a checkpoint that its keys signed and that extends every one this domain has seen of it; your browser can check that. <b>Their word:</b> what the entries say, and that the execution is the one that was meant: whoever started the child named it.</p>
    <div class="scroll" tabIndex={0} role="region" aria-label="Executions in other domains"><table id="far">
      <thead><tr><th scope="col">Execution</th><th scope="col">Is</th><th scope="col">Domain</th><th scope="col">Proven entries</th><th scope="col">Its domain’s word</th></tr></thead>
      <tbody>
        {above.map((p, i) => <tr key={p.id}><th scope="row"><code>{p.id}</code></th><td>{i || parents[0] !== p ? 'led to it' : 'parent'}</td><td>{p.domain}</td>
          <td>{entries(p.domain!, p.events.map(e => [names[e.event], e.index]))}</td>
          <td><Badge state={stateOf({ ended: p.ended, expires: expiry(p) }, now)} /> on node <code>{p.node.slice(0, 12)}…</code>, level {p.level}, workload {p.workload_basis}</td></tr>)}
        {peers.flatMap(p => p.children.map(c => <tr key={`${p.domain} ${c.exec}`}><th scope="row"><code>{c.exec}</code></th><td>child</td><td>{p.domain}</td>
          <td>{entries(p.domain, [['Decision', c.base], ['Start', c.entry], ['Stop', c.end]])}</td>
          <td><Badge state={stateOf(c, now)} /> on node <code>{c.node.slice(0, 12)}…</code>, level {c.level}, workload {c.workload_basis}, since <time>{moment(c.started)}</time></td></tr>))}
      </tbody>
    </table></div>
    <p class="soft">{peers.map(p => p.why ? <span key={p.domain}>Nothing more is told of {p.domain}: {p.why}. </span> : <span key={p.domain}>{p.domain} showed {figure(p.size)} entries at <time>{moment(p.seen)}</time>{p.read < p.size && `; ${figure(p.read)} of them were read so far`}. </span>)}</p>
  </section>
}

/** Where an entry of another domain's log is shown with its proof. */
function Far({ domain, index }: { domain: string; index: number }) {
  const raw = `/v1/public/lineage/entry?domain=${encodeURIComponent(domain)}&index=${index}`
  return <>{open.includes('proof') && <><a href={`/proof#peer/${domain}/${index}`} aria-label={`Check entry ${index} of ${domain}`}>check</a>, </>}<a href={raw} aria-label={`Entry ${index} of ${domain} with its proof`}>proof</a></>
}

const after = (s: Stop) => !['deadline', 'revoked', 'denied'].includes(s.cause) ? '' : `, ${s.latency_us < 1000 ? `${s.latency_us} µs` : `${figure(s.latency_us / 1000)} ms`} after the ${s.cause === 'deadline' ? 'deadline' : 'order'}`

function Fact({ name, digest, basis }: { name: string; digest?: string; basis: string }) {
  return <div><dt>{name} <Badge state={basis} /></dt><dd>{digest ? <code>{digest}</code> : 'no digest was given'}</dd></div>
}

function Exports({ exec, workload }: { exec: string; workload: boolean }) {
  const file = (format: string, name: string) => <a key={format} id={`export-${format}`} class="button" href={`/v1/public/lineage/export?exec=${encodeURIComponent(exec)}&format=${format}`} download={`${exec}.${format}.json`}>{name}</a>
  return <span class="acts" role="group" aria-label="Export">Export: {file('native', 'Native')}{workload ? file('in-toto', 'in-toto, unsigned') : <span class="soft">in-toto needs a workload digest</span>}{file('rfc-eg-0010', 'RFC-EG-0010')}</span>
}

/** Where an entry is shown with its proof. */
function Proof({ index }: { index: number }) {
  return <>{open.includes('proof') && <><a href={`/proof#${index}`} aria-label={`Check entry ${index}`}>check</a>, </>}<a href={`/log/proof/${index}`} aria-label={`Proof of entry ${index}`}>proof</a></>
}

const names = { authorized: 'Decision', admitted: 'Start', renewed: 'Renewal', terminated: 'Stop' }

const listedTokens = 12

function Entries({ of: x }: { of: Execution }) {
  const [all, setAll] = useState(false)
  const hidden = all || x.events.length <= listedTokens + 2 ? 0 : x.events.length - listedTokens
  const edge = listedTokens / 2
  const decision = x.events.find(e => e.event === 'authorized')
  return <div class="scroll" tabIndex={0} role="region" aria-label="Entries of the execution"><table id="events">
    <thead><tr><th scope="col">Event</th><th scope="col">Time</th><th scope="col">Entry</th><th scope="col">Proof</th><th scope="col">What the log says</th></tr></thead>
    <tbody>
      {decision && <tr><th scope="row">Request</th><td><time>{moment((decision.data as Decision).at)}</time></td><td>–</td><td>–</td><td>The node was challenged for evidence. The challenge is in the decision below.</td></tr>}
      {x.events.map((e, i) => hidden && i >= edge && i < edge + hidden ? i === edge && <tr key="hidden"><td colSpan={5}><button id="show-all" type="button" onClick={() => setAll(true)}>Show {figure(hidden)} more</button></td></tr>
        : <tr key={e.index} id={`entry-${e.index}`} tabIndex={-1}>
          <th scope="row">{names[e.event]}</th><td><time>{moment(e.at)}</time></td><td>{e.index}</td><td class="whole"><Proof index={e.index} /></td><td class="said"><Said e={e} /></td>
        </tr>)}
    </tbody>
  </table></div>
}

function Said({ e }: { e: Event }) {
  if (e.event === 'authorized') {
    const d = e.data as Decision
    return <>{d.decision}, {d.tier}; the node {d.from === d.to ? `stayed ${d.to}` : `went from ${d.from} to ${d.to}`}.<Digests of={[['evidence', d.evidence], ['references', d.references]]} /></>
  }
  if (e.event === 'terminated') {
    const s = e.data as Stop
    return <>{said(causes, s.cause) ?? s.cause} {s.confirmed ? `Confirmed by the keeper’s key${after(s)}.` : 'Not confirmed by a keeper.'}</>
  }
  const t = tokenOf(e)!
  return <>Token {figure(t.seq)} of the node, until <time>{moment(t.exp)}</time>, at {t.level}, for <bdi>{t.aud}</bdi>.{t.base !== undefined && <> It rests on the decision in entry {t.base} (<Proof index={t.base} />).</>}
    <Digests of={[['token before', t.prev], ['key', t.jkt], ['id', t.jti]]} /></>
}

function Digests({ of }: { of: [string, string | undefined][] }) {
  return <details><summary>Digests</summary><dl class="digests">{of.map(([k, v]) => <div key={k}><dt>{k}</dt><dd><code>{v || '–'}</code></dd></div>)}</dl></details>
}

const shownTokens = 5

/** The boxes and arrows of a life: of what let it run, of its tokens in a chain, of what it was started by and has started. */
function drawing({ lineage: { execution: x, parents }, children, peers, now }: Told, narrow: boolean): { boxes: Box[]; arrows: Arrow[] } {
  const boxes: Box[] = [], arrows: Arrow[] = []
  const to = (exec: string) => `/lineage?exec=${encodeURIComponent(exec)}`
  const ancestors = parents.slice(0, 3)
  const oldest = ancestors[ancestors.length - 1] ?? x
  if (parents.length > ancestors.length) boxes.push({ id: 'older', title: `${parents.length - ancestors.length} before`, sub: 'executions', tone: 'soft', href: to(parents[ancestors.length].id) })
  else if (oldest.parent) boxes.push({ id: 'older', title: oldest.parent, sub: 'not in this log', tone: 'soft', href: '#facts' })
  for (const p of ancestors) boxes.push({ id: `run ${p.id}`, title: p.id, sub: p.domain ? `of ${p.domain}` : p.node === x.node ? 'parent, same node' : 'parent, other node', tone: p.domain ? 'accent far' : 'accent', href: p.domain ? '#abroad' : to(p.id) })
  const chain = x.events.filter(e => e.event === 'admitted' || e.event === 'renewed')
  const shown = chain.length > shownTokens ? [...chain.slice(0, 2), ...chain.slice(1 - shownTokens + 1)] : chain
  const left = chain.length - shown.length
  let before = ''
  shown.forEach((e, i) => {
    const id = `entry ${e.index}`, t = tokenOf(e)!
    boxes.push({ id, title: `${names[e.event]} #${e.index}`, sub: `token ${t.seq}, ${moment(e.at).slice(11, 19)}`, tone: 'good', href: `#entry-${e.index}` })
    const base = t.base ?? (e.event === 'admitted' ? x.events.find(d => d.event === 'authorized')?.index : undefined)
    if (base !== undefined && base !== e.index && (!narrow || i === 0)) {
      if (!boxes.some(b => b.id === `entry ${base}`)) boxes.push({ id: `entry ${base}`, title: `Decision #${base}`, sub: 'on evidence', tone: 'accent', href: x.events.some(d => d.index === base) ? `#entry-${base}` : `/log/proof/${base}` })
      arrows.push([`entry ${base}`, id, 'rests'])
    }
    if (left > 0 && i === 2) {
      boxes.push({ id: 'left out', title: `${figure(left)} more`, sub: 'renewals', tone: 'soft', href: '#events' })
      arrows.push([before, 'left out', 'chain'])
      before = 'left out'
    }
    if (before) arrows.push([before, id, 'chain'])
    before = id
  })
  const first = shown[0] && `entry ${shown[0].index}`
  const line = ['older', ...ancestors.map(p => `run ${p.id}`).reverse(), first].filter(id => id && boxes.some(b => b.id === id)) as string[]
  for (let i = 1; i < line.length; i++) arrows.push([line[i - 1], line[i], 'starts'])
  const stop = x.events.find(e => e.event === 'terminated')
  if (stop) {
    const s = stop.data as Stop
    boxes.push({ id: 'stop', title: `Stop #${stop.index}`, sub: s.cause, tone: s.confirmed ? 'soft' : 'warn', href: `#entry-${stop.index}` })
    if (before) arrows.push([before, 'stop', 'chain'])
  }
  const shownChildren = narrow && children.length > 1 ? 0 : 8
  for (const c of children.slice(0, shownChildren)) {
    boxes.push({ id: `child ${c.exec}`, title: c.exec, sub: `${stateOf(c, now)}, ${c.node === x.node ? 'same' : 'other'} node`, tone: 'accent', href: to(c.exec) })
    const from = shown.filter(e => e.at <= c.started).pop() ?? shown[0]
    if (from) arrows.push([`entry ${from.index}`, `child ${c.exec}`, 'starts'])
  }
  for (const p of peers) for (const c of p.children.slice(0, 4)) {
    boxes.push({ id: `child ${p.domain} ${c.exec}`, title: c.exec, sub: `of ${p.domain}`, tone: 'accent far', href: '#abroad' })
    const from = shown.filter(e => e.at <= c.started).pop() ?? shown[0]
    if (from) arrows.push([`entry ${from.index}`, `child ${p.domain} ${c.exec}`, 'starts'])
  }
  if (children.length > shownChildren) {
    boxes.push({ id: 'children', title: `${figure(children.length - shownChildren)}${shownChildren ? ' more' : ' executions'}`, sub: 'started by it', tone: 'soft', href: '#children' })
    if (first) arrows.push([first, 'children', 'starts'])
  }
  return { boxes, arrows }
}

const cut = (s: string, most: number) => s.length > most ? s.slice(0, most - 1) + '…' : s

function Picture({ told, go }: { told: Told; go: Go }) {
  const box = useRef<HTMLDivElement>(null)
  const [down, setDown] = useState(false)
  useEffect(() => {
    const o = new ResizeObserver(e => setDown(e[0].contentRect.width < 640))
    o.observe(box.current!)
    return () => o.disconnect()
  }, [])
  const { boxes, arrows } = drawing(told, down)
  const p = place(boxes, arrows, down)
  const follow = (e: MouseEvent, href: string) => {
    const exec = href.startsWith('/lineage?') && new URLSearchParams(href.slice(9)).get('exec')
    if (exec && !e.ctrlKey && !e.metaKey && !e.shiftKey) { e.preventDefault(); go({ exec }) }
  }
  return <div ref={box} class="scroll" tabIndex={0} role="region" aria-label="Graph of the execution; the list below says the same">
    <svg class="graph" id="graph" width={p.width} height={p.height} viewBox={`0 0 ${p.width} ${p.height}`} role="group" aria-label="Decisions, tokens, executions">
      <defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" /></marker></defs>
      {p.arrows.map((a, i) => <path key={i} class={`arrow ${a.kind}`} d={`M${a.points.map(q => `${q.x.toFixed(1)},${q.y.toFixed(1)}`).join(' L')}`} marker-end="url(#arrow)" aria-hidden="true" />)}
      {p.boxes.map(b => <a key={b.id} href={b.href} class={b.tone} onClick={e => follow(e, b.href)}>
        <rect x={b.x - boxWidth / 2} y={b.y - boxHeight / 2} width={boxWidth} height={boxHeight} rx="5" />
        <text x={b.x - boxWidth / 2 + 10} y={b.y - 4}>{cut(b.title, 15)}</text>
        <text class="sub" x={b.x - boxWidth / 2 + 10} y={b.y + 13}>{cut(b.sub, 20)}</text>
      </a>)}
    </svg>
    <p class="soft legend">The numbers are entries of the log. Solid: the chain of tokens. Dashed: what a token rests on. Dotted: what started what. A dashed box is in another domain’s log.</p>
  </div>
}
