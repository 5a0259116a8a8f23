import { useEffect, useState } from 'preact/hooks'
import { Badge, said, Trouble } from '../widgets'
import { address, useAnswer, type Nodes, type Overview } from './data'
import { consequence, Entry, FindingCard, number, Short, When, Wide } from './parts'
import { Map, States } from './pictures'

const kinds: Record<string, string> = {
  'node.enrolled': 'a node enrolled', 'node.status': 'a node was approved', 'legitimacy.revoked': 'a node lost its tokens', 'reference.added': 'a reference set was agreed to',
  'reference.activated': 'a reference set came into force', 'join-token.created': 'a join token was made', 'join-token.revoked': 'a join token was ended',
  'governance.frozen': 'the domain was frozen', 'governance.unfrozen': 'the freeze was lifted', 'verifier.started': 'a verifier started', 'verifier.joined': 'a verifier joined',
  'verifier.retired': 'a verifier was retired', 'federation.peer-added': 'another domain was recognised', 'federation.peer-removed': 'another domain is recognised no more',
  'federation.checkpoint': 'another domain showed its log', 'federation.diverged': 'another domain’s log contradicted itself', 'governance.approved': 'an operator agreed to an act', 'legitimacy.expired': 'a node’s token lapsed', 'evidence.rejected': 'forged evidence was counted', 'retention.pruned': 'retention gave up what was old',
}

export function Glance({ of: o, filter, state }: { of: Overview; filter: (state?: string) => void; state?: string }) {
  const legitimate = o.states.filter(s => s.name === 'synchronized' || s.name === 'elevated-assurance').reduce((n, s) => n + s.count, 0)
  return <section aria-labelledby="glance">
    <h2 id="glance" class="unseen">At a glance</h2>
    <dl class="tiles">
      <div><dt>nodes</dt><dd id="count-nodes">{number(o.nodes)}</dd></div>
      <div><dt>legitimate now</dt><dd id="count-legitimate" class={o.nodes && legitimate === o.nodes ? 'good' : ''}>{number(legitimate)}</dd></div>
      <div><dt>tokens alive</dt><dd id="count-tokens">{number(o.tokens)}</dd></div>
      <div><dt>log entries</dt><dd id="count-entries"><a href="/log/checkpoint" title="The signed checkpoint">{number(o.checkpoint.size)}</a></dd></div>
      <div><dt>epoch</dt><dd>{o.epoch}{o.act !== undefined && <small> <Entry index={o.act} /></small>}</dd></div>
    </dl>
    <ul class="states" aria-label="Nodes by state; choose one to list its nodes">
      {o.states.map(s => <li key={s.name} class={s.count ? '' : 'zero'}><button type="button" id={`state-${s.name}`} aria-pressed={state === s.name} onClick={() => filter(state === s.name ? undefined : s.name)}>
        <Badge state={s.name} /> <b>{number(s.count)}</b></button></li>)}
    </ul>
  </section>
}

export const Pictures = ({ of: o }: { of: Overview }) => <div class="pair"><div><States of={o} /></div><div><Map of={o.coverage} /></div></div>

const limit = 25

/** The list of nodes. What is looked for is in the address of the page. */
export function NodeList({ of: o, beat, open, filters, setFilters }: { of: Overview; beat: number; open: (subject: string) => void; filters: Filters; setFilters: (f: Filters) => void }) {
  const [text, setText] = useState(filters.q ?? '')
  const [pages, setPages] = useState<string[]>([]) // the last node of each page before
  const set = (change: Filters) => { setPages([]); setFilters({ ...filters, ...change }) }
  useEffect(() => {
    const t = setTimeout(() => { if (text !== (filters.q ?? '')) set({ q: text || undefined }) }, 150)
    return () => clearTimeout(t)
  }, [text])
  useEffect(() => setPages([]), [filters.state])
  const query = new URLSearchParams({ limit: String(limit) })
  for (const [k, v] of Object.entries(filters)) if (v) query.set(k, v)
  if (pages.length) query.set('after', pages[pages.length - 1])
  const { data, trouble } = useAnswer<Nodes>(`/nodes?${query}`, beat)
  const from = pages.length * limit
  const filtered = Object.values(filters).some(Boolean)
  return <section aria-labelledby="nodes-title">
    <div class="title"><h2 id="nodes-title">Nodes</h2>{filtered && <button type="button" id="clear" onClick={() => { setText(''); setPages([]); setFilters({}) }}>Clear filters</button>}</div>
    <form class="filters" role="search" onSubmit={e => e.preventDefault()}>
      <div class="wide"><label for="search">Search</label><input id="search" type="search" value={text} maxLength={100} autocomplete="off" spellcheck={false} placeholder={o.session ? 'id, pseudonym, class, device, finding' : 'pseudonym, class, or a whole node id'} onInput={e => setText(e.currentTarget.value)} /></div>
      <Choice id="state" label="State" value={filters.state} of={o.states.map(s => s.name)} set={v => set({ state: v })} />
      <Choice id="status" label="Status" value={filters.status} of={o.statuses.map(s => s.name)} set={v => set({ status: v })} />
      <Choice id="class" label="Class" value={filters.class} of={o.coverage.map(c => c.class)} set={v => set({ class: v })} />
      <Choice id="judged" label="Judged by" value={filters.judged} of={['current', 'earlier', 'never']} names={{ current: 'the set in force', earlier: 'an earlier set', never: 'no set yet' }} set={v => set({ judged: v })} />
    </form>
    {trouble && trouble.code && <Trouble>{trouble.message}</Trouble>}
    {data && (data.total ? <>
      <Wide list name="List of nodes" head={['Node', 'State', 'Class', 'Status', 'Last decision', 'Judged by']}>
        {data.nodes.map(n => <tr key={n.subject}>
          <th scope="row"><a href={address({ node: n.subject })} onClick={e => { if (!e.ctrlKey && !e.metaKey && !e.shiftKey) { e.preventDefault(); open(n.subject) } }}><Short of={n.id ?? n.subject} /></a>{n.device && <small class="soft block"><bdi>{n.device}</bdi></small>}</th>
          <td><Badge state={n.state} /></td><td>{n.class}</td><td><Badge state={n.status} /></td>
          <td>{n.decided === undefined ? <span class="soft">none yet</span> : <><Badge state={n.decision!} /> <Entry index={n.decided} /> <small class="soft block"><When at={n.decided_at!} /></small></>}</td>
          <td class={n.judged === 'current' ? '' : 'soft'}>{{ current: 'the set in force', earlier: 'an earlier set', never: 'no set yet' }[n.judged]}</td>
        </tr>)}
      </Wide>
      <nav class="acts" aria-label="Pages of the list">
        <span class="soft" role="status" id="range">{number(from + 1)} to {number(from + data.nodes.length)} of {number(data.total)}</span>
        <button type="button" id="previous" disabled={!pages.length} onClick={() => setPages(pages.slice(0, -1))}>Previous</button>
        <button type="button" id="next" disabled={!data.next} onClick={() => setPages([...pages, data.next!])}>Next</button>
      </nav>
    </> : <p class="empty" id="no-nodes" role="status">{o.nodes ? 'No node fits. Look for less, or clear the filters.' : <>No node has enrolled yet. Make a join token (<code>writ join-token create</code>) and provision one (<code>writ provision</code>).</>}</p>)}
  </section>
}

export interface Filters { q?: string; state?: string; status?: string; class?: string; judged?: string }

function Choice({ id, label, value, of, names, set }: { id: string; label: string; value?: string; of: string[]; names?: Record<string, string>; set: (v?: string) => void }) {
  return <div><label for={`filter-${id}`}>{label}</label>
    <select id={`filter-${id}`} value={value ?? ''} onChange={e => set(e.currentTarget.value || undefined)}>
      <option value="">any</option>{of.map(v => <option key={v} value={v}>{names?.[v] ?? v}</option>)}
    </select></div>
}

export function Findings({ of: o, open }: { of: Overview; open: (subject: string) => void }) {
  const shown = o.findings.slice(0, 8)
  return <section aria-labelledby="findings-title">
    <h2 id="findings-title">Recent findings</h2>
    {!shown.length && <p class="empty" id="no-findings">No node was denied lately.</p>}
    {!!shown.length && !o.evidence && <p class="soft">What was found is shown to operators who sign in.</p>}
    <ul class="cards">{shown.map(d => <li key={d.index} class="card">
      <p class="line"><Badge state="deny" /> <a href={address({ node: d.subject })} onClick={e => { e.preventDefault(); open(d.subject) }}><Short of={d.subject} /></a> <span>{d.class}</span> <Entry index={d.index} /> <span class="soft"><When at={d.at} />{d.times > 1 && `, ${d.times} times`}</span></p>
      {d.findings && <ul class="plain">{d.findings.filter(f => f.code !== consequence).slice(0, 2).map((f, i) => <FindingCard key={i} of={f} />)}</ul>}
    </li>)}</ul>
    {o.findings.length > shown.length && <p class="soft">{o.findings.length - shown.length} more nodes were denied lately; list those that are fail-closed-restricted.</p>}
  </section>
}

export function References({ of: o }: { of: Overview }) {
  const inUse = o.coverage
  return <section aria-labelledby="references-title">
    <h2 id="references-title">Reference sets in force</h2>
    {!inUse.length ? <p class="empty">No set is in force: every node is denied. Learn, sign and publish one (<code>writ reference learn</code>, <code>sign</code>, <code>publish</code>).</p>
      : <Wide name="Sets and their coverage" head={['Class', 'Generation', 'Digest', 'Nodes', 'Judged by it', 'Legitimate', 'In force since']}>
        {inUse.map(c => <tr key={c.class}>
          <th scope="row">{c.class}{c.reference?.base.length ? <small class="soft block">on {c.reference.base.join(', ')}</small> : null}</th>
          <td>{c.reference ? c.reference.generation : <span class="bad">none: its nodes are denied</span>}</td>
          <td>{c.reference && <Short of={c.reference.digest} />}{c.reference && !c.reference.whole && <small class="bad block">what it names is not in force</small>}</td>
          <td>{number(c.nodes)}</td><td>{number(c.current)}</td><td>{number(c.legitimate)}</td>
          <td>{c.reference && <Entry index={c.reference.entry} />}{c.reference?.not_after ? <small class="soft block">until <When at={c.reference.not_after} /></small> : null}</td>
        </tr>)}
      </Wide>}
  </section>
}

export function Rules({ of: o }: { of: Overview }) {
  const p = o.policy
  return <section aria-labelledby="policy-title">
    <h2 id="policy-title">Policy, keys, verifiers and other domains</h2>
    <div class="pair">
      <dl class="facts" aria-label="Policy">
        <div><dt>rules of the appraisal</dt><dd>version {p.rules}</dd></div>
        <div><dt>tokens live</dt><dd>{p.token_life} s</dd></div>
        <div><dt>least enforcement</dt><dd>{p.min_level}</dd></div>
        <div><dt>operators who must agree</dt><dd>{p.approvals}</dd></div>
        <div><dt>signatures of a reference set</dt><dd>{p.reference_keys ? `${p.reference_threshold} of ${p.reference_keys} keys` : 'no key is configured: no set can come into force'}</dd></div>
        <div><dt>roots of TPM makers</dt><dd>{p.ek_roots}{p.ek_vendors && `, bundle ${p.ek_vendors}`}</dd></div>
        {p.prove_halt_every ? <div><dt>nodes prove that they can halt</dt><dd>every {Math.round(p.prove_halt_every / 60)} min</dd></div> : null}
        <div><dt>checkpoint</dt><dd>{number(o.checkpoint.size)} {o.checkpoint.size === 1 ? 'entry' : 'entries'}, root <Short of={o.checkpoint.root} />, {o.checkpoint.signatures} {o.checkpoint.signatures === 1 ? 'signature' : 'signatures'}</dd></div>
      </dl>
      <div>
        <Wide name="Token keys" head={['Token key', 'State', 'Since', 'Entry']}>
          {o.keys.map(k => <tr key={k.kid}><th scope="row"><Short of={k.kid} /></th><td>{k.state}</td><td><When at={k.from} /></td><td>{k.entry !== undefined ? <Entry index={k.entry} /> : <Entry index={0} label="the first" />}</td></tr>)}
        </Wide>
        <Wide name="Verifiers" head={['Verifier, by its log key', 'Is', 'Entry']}>
          {o.peers.map(v => <tr key={v.log_key}><th scope="row"><Short of={v.log_key} /></th><td>{[v.self && 'this one', v.first && 'the first', v.retired && 'retired'].filter(Boolean).join(', ') || 'a peer'}</td><td>{v.entry !== undefined && <Entry index={v.entry} />}</td></tr>)}
        </Wide>
        {o.domains.length > 0 && <Wide name="Domains that are recognised" head={['Recognised domain', 'Counts', 'Its log', 'Heard']}>
          {o.domains.map(d => <tr key={d.domain}><th scope="row">{d.domain}</th><td><Badge state={d.state} />{d.why && <small class="soft block">{d.why}</small>}</td><td>{number(d.size)} {d.size === 1 ? 'entry' : 'entries'}</td><td>{d.seen ? <When at={d.seen} /> : 'never'}</td></tr>)}
        </Wide>}
        {!o.domains.length && <p class="soft">No other domain is recognised: its tokens count here for nothing (writ peer add).</p>}
      </div>
    </div>
  </section>
}

export function Acts({ of: o }: { of: Overview }) {
  return <section aria-labelledby="acts-title">
    <h2 id="acts-title">Recent acts</h2>
    {!o.acts.length ? <p class="empty">Nothing was done lately.</p> : <ol class="timeline">
      {o.acts.slice(0, 12).map(a => <li key={a.index}><When at={a.at} /> <span>{said(kinds, a.kind) ?? a.kind}, <Entry index={a.index} /></span></li>)}
    </ol>}
  </section>
}
