import { useEffect, useRef, useState } from 'preact/hooks'
import { Trouble } from '../widgets'
import { ask, Refused, type Detail, type Overview, type Session } from './data'
import { Short, When } from './parts'

/** What only operators are sent: this file is not loaded for anybody else. */
interface Act {
  id: string; name: string; role: string; danger?: boolean; final?: boolean; about: string
  file?: boolean; send: (reason: string, file?: File) => [method: string, path: string, body: BodyInit]
}

/** Refusals of a session that has ended: here, or signed out by another page. */
const over = new Set(['session-ended', 'credential-required'])

const json = (v: unknown) => JSON.stringify(v)
const may = (s: Session, role: string) => s.roles.includes(role)

function nodeActs(d: Detail): Act[] {
  const n = d.node
  const act = (id: string, name: string, status: string, about: string, more: Partial<Act> = {}): Act =>
    ({ id, name, role: 'operator', about, send: reason => ['POST', `/v1/nodes/${encodeURIComponent(n.id!)}/status`, json({ status, reason })], ...more })
  const live = n.status !== 'revoked' && n.status !== 'retired'
  return [
    ...n.status === 'pending' || n.status === 'suspended' ? [act('approve', 'Approve', 'active', 'The node may be granted tokens again, if its evidence is good.')] : [],
    ...n.status === 'active' ? [act('suspend', 'Suspend', 'suspended', 'Every token of the node ends now, and its work stops. It may be approved again.', { danger: true })] : [],
    ...live ? [
      act('revoke', 'Revoke', 'revoked', 'Every token of the node ends now, and its work stops. This node never gets another one.', { danger: true, final: true }),
      act('retire', 'Retire', 'retired', 'The node is taken out of service for ever; its tokens end now.', { danger: true, final: true }),
    ] : [],
  ]
}

function domainActs(o: Overview): Act[] {
  return [
    { id: 'publish', name: 'Publish a reference set', role: 'approver', file: true, about: `The set that you choose is agreed to by you. It comes into force when ${o.policy.approvals} ${o.policy.approvals === 1 ? 'operator has' : 'different operators have'} published the same file.`, send: (_, file) => ['POST', '/v1/references', file!] },
    o.frozen
      ? { id: 'unfreeze', name: 'Lift the freeze', role: 'approver', about: `You agree that tokens are issued again. It takes ${o.policy.approvals} ${o.policy.approvals === 1 ? 'operator' : 'different operators'}.`, send: reason => ['POST', '/v1/freeze', json({ frozen: false, reason })] }
      : { id: 'freeze', name: 'Freeze the domain', role: 'operator', danger: true, final: true, about: `Every token of every node ends now (${o.nodes} ${o.nodes === 1 ? 'node' : 'nodes'}), and none is issued until ${o.policy.approvals} ${o.policy.approvals === 1 ? 'operator lifts' : 'operators lift'} the freeze.`, send: reason => ['POST', '/v1/freeze', json({ frozen: true, reason })] },
  ]
}

/** Buttons for acts; each asks for a reason and to be confirmed. */
export function Acts({ session: s, overview: o, detail, done, ended }: { session: Session; overview: Overview; detail?: Detail; done: () => void; ended: (what?: string) => void }) {
  const [open, setOpen] = useState<Act>()
  const [told, setTold] = useState('')
  const acts = (detail ? nodeActs(detail) : domainActs(o)).filter(a => may(s, a.role))
  const late = s.acts * 1000 <= Date.now()
  return <section class="operate" aria-label={detail ? 'What you may do with this node' : 'What you may do'}>
    <div class="acts">
      {acts.map(a => <button key={a.id} type="button" id={`act-${a.id}`} class={a.danger ? 'danger' : ''} disabled={late} onClick={() => { setTold(''); setOpen(a) }}>{a.name}…</button>)}
      {!acts.length && <span class="soft">{detail && (detail.node.status === 'revoked' || detail.node.status === 'retired') ? `It is ${detail.node.status}, which is final.` : `Your roles (${s.roles.join(', ')}) let you look, not act.`}</span>}
      {late && <span class="warn" role="status" id="step-up">To act, sign in again: <code>writ sign-in</code></span>}
    </div>
    <p role="status" id="act-done" class="good">{told}</p>
    {open && <Confirm act={open} session={s} node={detail} cancel={() => setOpen(undefined)} ended={ended} done={t => { setOpen(undefined); setTold(t); done() }} />}
  </section>
}

function Confirm({ act: a, session, node, cancel, done, ended }: { act: Act; session: Session; node?: Detail; cancel: () => void; done: (told: string) => void; ended: (what?: string) => void }) {
  const box = useRef<HTMLDialogElement>(null)
  const [reason, setReason] = useState('')
  const [file, setFile] = useState<File>()
  const [sure, setSure] = useState(false)
  const [busy, setBusy] = useState(false)
  const [trouble, setTrouble] = useState('')
  useEffect(() => { box.current!.showModal() }, [])
  const ready = (a.file ? !!file : reason.trim() !== '') && (!a.final || sure) && !busy
  const go = async () => {
    if (!ready) return
    setBusy(true); setTrouble('')
    try {
      const [method, path, body] = a.send(reason.trim(), file)
      const r = await ask<{ status?: string; active?: boolean; frozen?: boolean; approvals?: number; needed?: number; generation?: number; name?: string }>(method, path, body, { 'Content-Type': 'application/json', 'X-Writ-CSRF': session.csrf })
      box.current!.close() // which gives the focus back
      done(outcome(a, r))
    } catch (e) {
      if (e instanceof Refused && over.has(e.code)) return ended(a.name)
      setTrouble((e as Error).message + (e instanceof Refused && !e.code ? ' Whether it was done is not known: look before you try again.' : ''))
    }
    setBusy(false)
  }
  return <dialog ref={box} aria-labelledby="confirm-title" onClose={cancel}>
    <form onSubmit={e => { e.preventDefault(); void go() }}>
      <h2 id="confirm-title">{a.name}</h2>
      {node && <p>Node <Short of={node.node.id!} most={16} />, class {node.node.class}</p>}
      <p>{a.about}</p>
      {a.file
        ? <><label for="act-file">Signed set (writ reference sign)</label><input id="act-file" type="file" accept=".json,application/json" onChange={e => setFile(e.currentTarget.files?.[0])} /></>
        : <><label for="act-reason">Reason</label><textarea id="act-reason" rows={2} maxLength={500} required value={reason} onInput={e => setReason(e.currentTarget.value)} aria-describedby="reason-note" /><p class="soft small" id="reason-note">The log holds a commitment to it, not its words.</p></>}
      {a.final && <label class="choice"><input id="act-sure" type="checkbox" checked={sure} onChange={e => setSure(e.currentTarget.checked)} /> I know what this ends.</label>}
      {trouble && <Trouble>{trouble}</Trouble>}
      <p class="acts end"><button type="button" id="act-cancel" onClick={() => box.current!.close()}>Cancel</button><button type="submit" id="act-confirm" class={a.danger ? 'danger main' : 'main'} disabled={!ready}>{busy ? 'Asking the verifier' : a.name}</button></p>
    </form>
  </dialog>
}

function outcome(a: Act, r: { status?: string; active?: boolean; frozen?: boolean; approvals?: number; needed?: number; generation?: number; name?: string }): string {
  switch (a.id) {
    case 'publish': return r.active ? `${r.name} generation ${r.generation} is in force.` : `You have agreed to ${r.name} generation ${r.generation}: ${r.approvals} of ${r.needed}.`
    case 'freeze': return 'The domain is frozen.'
    case 'unfreeze': return r.frozen ? `You have agreed: ${r.approvals} of ${r.needed}.` : 'The freeze is lifted.'
  }
  return `The node is ${r.status}.`
}

/** Who is signed in, and the way out. */
export function SignedIn({ session: s, left }: { session: Session; left: () => void }) {
  const [trouble, setTrouble] = useState('')
  const out = () => ask('DELETE', '/v1/sessions', undefined, { 'X-Writ-CSRF': s.csrf }).then(left, (e: Refused) => over.has(e.code) ? left() : setTrouble(e.message))
  return <div class="operator" id="signed-in">
    <span>Signed in as <b>{s.operator}</b> <span class="soft">({s.roles.join(', ')})</span></span>
    <span class="soft">{s.acts * 1000 > Date.now() ? <>may act until <When at={s.acts} /></> : 'may look'}</span>
    <button type="button" id="sign-out" onClick={() => void out()}>Sign out</button>
    {trouble && <span class="bad" role="alert">{trouble}</span>}
  </div>
}
