import { useState } from 'preact/hooks'
import { Timeline } from '../charts'
import { Badge, Trouble } from '../widgets'
import { useAnswer, type Boot, type Change, type Component, type Detail, type Link, type Overview } from './data'
import { consequence, Entry, Fact, Facts, FindingCard, Notice, number, Short, When, Wide } from './parts'
import { BootPicture, MerklePath, spansOf } from './pictures'

export function NodePage({ subject, overview: o, beat, back, acts }: { subject: string; overview?: Overview; beat: number; back: () => void; acts: (d: Detail) => preact.ComponentChildren }) {
  const { data: d, trouble } = useAnswer<Detail>(`/nodes/${encodeURIComponent(subject)}`, beat)
  const [chosen, setChosen] = useState<number>() // a decision; else the last one
  const last = d?.chain.find(l => l.kind !== 'execution.admitted' && !l.gone)?.index
  const index = chosen ?? last
  const way = <p><a href="/console" id="back" onClick={e => { if (!e.ctrlKey && !e.metaKey) { e.preventDefault(); back() } }}>← All nodes</a></p>
  if (!d) return <>{way}<h1>Node</h1>{trouble ? <Trouble>{trouble.code === 'not-found' ? `The log knows no node ${subject}. It may have enrolled under another pseudonym, or in another domain.` : trouble.message}</Trouble> : <p class="soft" role="status" aria-busy="true">Reading the node…</p>}</>
  const n = d.node
  return <>
    {way}
    <h1 class="name">Node <code>{n.id ?? n.subject}</code></h1>
    <p class="line big"><Badge state={n.state} /> <span>status <Badge state={n.status} /></span> <span>class <b>{n.class}</b></span></p>
    {acts(d)}
    <Facts>
      {n.id && <Fact name="pseudonym in the log"><code>{n.subject}</code></Fact>}
      {n.device && <Fact name="device"><bdi>{n.device}</bdi></Fact>}
      <Fact name="enrolled"><When at={n.enrolled} /> <Entry index={n.entry} /></Fact>
      <Fact name="last token">{n.seq ? <>number {number(n.seq)}, {n.deadline > d.now ? 'ends' : 'ended'} <When at={n.deadline} /></> : 'none yet'}</Fact>
      <Fact name="judged by">{n.judged === 'never' ? 'no set yet' : n.judged === 'current' ? <>{n.class} generation {d.reference?.generation} <Entry index={d.reference!.entry} /></> : 'an earlier set than the one in force'}</Fact>
    </Facts>
    {!!d.chain.length && <Timeline label="State over the last decisions" spans={spansOf(d.chain, d.now, (o?.acts ?? []).filter(a => a.subject === n.subject && a.kind === 'legitimacy.revoked').map(a => a.at))} />}
    <BootPart subject={subject} index={index} overview={o} beat={beat} follow={chosen === undefined} />
    <Chain of={d} chosen={index} choose={setChosen} last={last} />
  </>
}

/** What a decision saw of the boot. It is asked for once a decision: it does not change. */
function BootPart({ subject, index, overview: o, follow }: { subject: string; index?: number; overview?: Overview; beat: number; follow: boolean }) {
  const may = index !== undefined && o?.evidence
  const { data: b, trouble } = useAnswer<Boot>(may ? `/nodes/${encodeURIComponent(subject)}/boot?index=${index}` : undefined, o?.session ? 1 : 0)
  return <section aria-labelledby="boot-title">
    <h2 id="boot-title">Boot</h2>
    {index === undefined ? <p class="empty">No decision was made on this node yet.</p>
      : !o ? null : !o.evidence ? <p class="empty" id="no-evidence">What was measured is not public here; operators who sign in see it.</p>
        : trouble ? <Trouble>{trouble.code ? trouble.message : 'The verifier cannot be reached; the boot is shown when it answers.'}</Trouble>
          : !b ? <p class="soft" role="status" aria-busy="true">Appraising the boot once more…</p> : <BootOf of={b} follow={follow} />}
  </section>
}

function BootOf({ of: b, follow }: { of: Boot; follow: boolean }) {
  const findings = b.findings.filter(f => f.code !== consequence)
  return <>
    <p class="line"><span>{follow ? 'The last decision' : 'The chosen decision'}: <Badge state={b.decision} /></span> <Entry index={b.index} /> <span class="soft">at <When at={b.at} />{b.set && <>, by {b.set} generation {b.generation}</>}</span></p>
    <ul class="claims" aria-label="Claims">{b.claims.map(c => <li key={c.name}><span class="soft">{c.name}</span> <Badge state={c.tier} /></li>)}</ul>
    <BootPicture of={b.components} />
    <h3 id="difference-title">Difference from the reference</h3>
    {findings.length ? <ul class="plain cards" aria-labelledby="difference-title">{findings.map((f, i) => <FindingCard key={i} of={f} />)}</ul> : <p class="empty">None: everything that the set speaks of is as it says.</p>}
    <Components of={b.components} />
    <h3>Difference from the boot before</h3>
    {b.before ? <>
      <p class="soft">Compared with what <Entry index={b.before.index} /> saw.</p>
      {b.before.boot.length ? <Changes name="Changed components" of={b.before.boot} /> : <p class="empty">The same components were measured.</p>}
    </> : <p class="empty">{b.missing && b.missing[0].toUpperCase() + b.missing.slice(1)}.</p>}
    <h3>Files that the kernel measured (IMA)</h3>
    {b.ima_entries ? <>
      <p>{number(b.ima_entries)} proven entries about {number(b.ima_files)} files, {b.ima_violations} violations.</p>
      {b.before && (b.before.files.length ? <><Changes name="Changed files" of={b.before.files} />{b.before.more > 0 && <p class="soft">And {number(b.before.more)} more.</p>}</> : <p class="empty">The same files as in the boot before.</p>)}
    </> : <p class="empty">No list was judged: the set has no part about files, or the node sent none.</p>}
    <details><summary>The appraisal, step by step</summary>
      <Wide name="Steps of the appraisal" head={['Step', 'Result', 'What was looked at']}>
        {b.steps.map((s, i) => <tr key={i}><th scope="row">{s.name}</th><td><Badge state={s.result} /></td><td class="detail">{s.detail}</td></tr>)}
      </Wide>
    </details>
  </>
}

function Components({ of: all }: { of: Component[] }) {
  const odd = all.filter(c => c.judgement !== 'allowed' && c.judgement !== 'unjudged')
  const [only, setOnly] = useState(false)
  const shown = only ? odd : all
  return <details>
    <summary>All {all.length} measured components, {odd.length} of them not allowed</summary>
    <p><label class="choice"><input type="checkbox" id="only-odd" checked={only} onChange={e => setOnly(e.currentTarget.checked)} /> Only those that are not allowed</label></p>
    <Wide name="Measured components" head={['Event', 'PCR', 'What', 'Digest', 'Judgement', 'Why']}>
      {shown.map(c => <tr key={c.event}><td>{c.event}</td><td>{c.pcr}</td><td class="detail"><b>{c.type}</b><br />{c.what}</td><td><Short of={c.digest} /></td><td><Badge state={c.judgement} /></td><td class="detail">{c.why}</td></tr>)}
    </Wide>
  </details>
}

function Changes({ name, of }: { name: string; of: Change[] }) {
  return <Wide name={name} head={['PCR', 'Change', 'What', 'Before', 'Now']}>
    {of.map((c, i) => <tr key={i}><td>{c.pcr}</td><td>{c.change}</td><td class="detail">{c.name}</td><td>{c.was && <Short of={c.was} most={20} />}</td><td>{c.now && <Short of={c.now} most={20} />}</td></tr>)}
  </Wide>
}

function Chain({ of: d, chosen, choose, last }: { of: Detail; chosen?: number; choose: (index?: number) => void; last?: number }) {
  return <section aria-labelledby="chain-title">
    <h2 id="chain-title">Token chain</h2>
    {!d.chain.length ? <p class="empty">No token was issued and none was denied.</p> : <>
      {chosen !== last && <Notice>The boot above is the one of entry {chosen}. <button type="button" id="follow-last" onClick={() => choose(undefined)}>Show the last one</button></Notice>}
      <Wide name="Token chain, newest first" head={['Entry', 'At', 'Decision', 'State', 'Token', 'Before it', 'Ends', 'Boot']}>
        {d.chain.map(l => <Row key={l.index} of={l} now={d.now} chosen={l.index === chosen} choose={() => choose(l.index === last ? undefined : l.index)} />)}
      </Wide>
      {d.more && <p class="soft">Earlier ones are in the log: writ log entry INDEX.</p>}
      {chosen !== undefined && <><h3>Its place in the log</h3><MerklePath index={chosen} /></>}
    </>}
  </section>
}

function Row({ of: l, now, chosen, choose }: { of: Link; now: number; chosen: boolean; choose: () => void }) {
  if (l.gone) return <tr><th scope="row"><Entry index={l.index} /></th><td colSpan={7} class="soft">retention gave up its bytes; its proof remains</td></tr>
  const further = l.kind === 'execution.admitted'
  return <tr class={chosen ? 'chosen' : ''}>
    <th scope="row"><Entry index={l.index} label={String(l.index)} /></th><td><When at={l.at} /></td>
    <td>{further ? <span class="soft">further token</span> : <Badge state={l.decision!} />}</td><td>{l.from && l.from !== l.to ? <small>{l.from} → {l.to}</small> : <small>{l.to}</small>}</td>
    <td>{l.seq ? <>{l.seq}{l.level && <small class="soft"> {l.level}</small>}</> : ''}</td><td>{l.prev ? <Short of={l.prev} most={10} /> : l.seq ? <span class="soft">the first</span> : ''}</td>
    <td>{l.exp ? l.ended && l.exp > now ? <span class="bad">ended by an act</span> : l.exp > now ? <When at={l.exp} /> : <span class="soft">expired</span> : ''}</td>
    <td>{!further && <button type="button" aria-pressed={chosen} aria-label={`Show the boot that entry ${l.index} is about`} onClick={choose}>Show</button>}</td>
  </tr>
}
