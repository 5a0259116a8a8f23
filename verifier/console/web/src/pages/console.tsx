import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import '../console/console.css'
import { address, ask, useAnswer, useBeat, type Line, type Overview, type Refused, type Session } from '../console/data'
import { NodePage } from '../console/node'
import type * as Operator from '../console/operator'
import { Acts, Findings, Glance, NodeList, Pictures, References, Rules, type Filters } from '../console/overview'
import { Entry, Notice, When } from '../console/parts'
import { Heard, Trouble } from '../widgets'

const known = ['q', 'state', 'status', 'class', 'judged'] as const

function read() {
  const q = new URLSearchParams(location.search)
  const filters: Filters = {}
  for (const k of known) filters[k] = q.get(k) ?? undefined
  return { node: q.get('node') ?? undefined, filters }
}

/** The code that `writ sign-in` has put into the address; it is taken out of it at once. */
const code = /^#sign-in=([\w-]{1,100})$/.exec(location.hash)?.[1]
if (code) history.replaceState(null, '', location.pathname + location.search)

export default function Console() {
  const [view, setView] = useState(read)
  const [beat, line] = useBeat()
  const [turn, setTurn] = useState(0) // +1 when something was done here
  const [signIn, setSignIn] = useState(code)
  const [told, setTold] = useState('') // why nobody is signed in any more
  const { data: o, trouble, at } = useAnswer<Overview>('', beat + turn * 1e6)
  const [operator, setOperator] = useState<typeof Operator>()
  useEffect(() => {
    const go = () => setView(read())
    addEventListener('popstate', go)
    return () => removeEventListener('popstate', go)
  }, [])
  useEffect(() => { if (o?.session && !operator) void import('../console/operator').then(setOperator) }, [o?.session])
  const ended = (what?: string) => { setTold(`Your session has ended${what ? `, so this was not done: ${what}` : ''}. To go on as an operator, sign in again: writ sign-in`); setTurn(t => t + 1) }
  useEffect(() => { if (trouble?.code === 'session-ended' && !told) ended() }, [trouble])
  const was = useRef(false) // signed in, as the last answer said
  useEffect(() => { // whichever answer took the cookie back
    if (o && was.current && !o.session && !told) ended()
    if (o) was.current = !!o.session
  }, [o])
  const go = (change: Record<string, string | undefined>, push = true) => {
    history[push ? 'pushState' : 'replaceState'](null, '', address(change))
    setView(read())
    if (push) { scrollTo(0, 0); document.getElementById('main')?.focus({ preventScroll: true }) }
  }
  const open = (node: string) => go({ node })
  const away = !!o && !!trouble && trouble.code !== 'session-ended'
  const session = trouble?.code === 'session-ended' ? undefined : o?.session
  const acts = { overview: o!, session: session!, done: () => setTurn(t => t + 1), ended }
  return <>
    <div class="bar">
      <Signal line={line} away={away} at={at} size={o?.size} />
      {session && operator && <operator.SignedIn session={session} left={() => { was.current = false; setTold(''); setTurn(t => t + 1) }} />}
    </div>
    {signIn && <SignIn code={signIn} domain={o?.domain} done={() => { setSignIn(undefined); setTold(''); setTurn(t => t + 1) }} />}
    {told && !session && <Notice tone="warn">{told}</Notice>}
    {o?.frozen && <div class="notice bad" role="status" id="frozen"><p>The domain is frozen: every token has ended and none is issued. {o.act !== undefined && <Entry index={o.act} />}</p></div>}
    <Heard why={away ? why(trouble) : undefined} at={at}>{view.node
      ? <NodePage key={view.node} subject={view.node} overview={o} beat={beat + turn * 1e6} back={() => go({ node: undefined })} acts={d => session && operator && d.node.id ? <operator.Acts {...acts} detail={d} /> : null} />
      : <>
        <h1>{o ? <>Console of <span class="domain">{o.domain}</span></> : 'Console'}</h1>
        {!o ? <First trouble={trouble} /> : !o.ready ? <p class="empty" role="status">The verifier has just started and reads its nodes; the figures follow.</p> : <>
          {session && operator && <operator.Acts {...acts} />}
          <Glance of={o} state={view.filters.state} filter={state => go({ state }, false)} />
          {o.nodes > 0 && <Pictures of={o} />}
          <NodeList of={o} beat={beat + turn * 1e6} open={open} filters={view.filters} setFilters={f => go({ ...Object.fromEntries(known.map(k => [k, undefined])), ...f }, false)} />
          <div class="pair columns"><Findings of={o} open={open} /><Acts of={o} /></div>
          <References of={o} />
          <Rules of={o} />
        </>}
      </>}</Heard>
  </>
}

const why = (r: Refused) => r.code ? `The verifier answers: ${r.message}` : 'The verifier cannot be reached.'

function First({ trouble }: { trouble?: Refused }) {
  if (!trouble || trouble.code === 'session-ended') return <p class="soft" role="status" aria-busy="true">Asking the verifier…</p>
  return <Trouble>{why(trouble)} This page asks again every few seconds.</Trouble>
}

/** Whether what is shown is of now. */
function Signal({ line, away, at, size }: { line: Line; away: boolean; at: number; size?: number }) {
  const [shape, tone, word] = away ? ['✕', 'bad', 'no answer'] : line === 'live' ? ['●', 'good', 'live'] : ['◐', 'warn', line === 'connecting' ? 'connecting' : 'asking every few seconds']
  return <p class="signal" id="signal">
    <span class={tone} role="status"><span aria-hidden="true">{shape}</span> {word}</span>
    {at > 0 && size !== undefined && <span class="soft"> as of {away ? <When at={Math.floor(at / 1000)} /> : `${size.toLocaleString('en')} ${size === 1 ? 'entry' : 'entries'}`}</span>}
  </p>
}

/** Asks before a browser becomes an operator's: whoever follows a link may not have made it. */
function SignIn({ code, domain, done }: { code: string; domain?: string; done: (s?: Session) => void }) {
  const [busy, setBusy] = useState(false)
  const [trouble, setTrouble] = useState('')
  const go = async () => {
    setBusy(true)
    try { done(await ask<Session>('POST', '/v1/sessions', JSON.stringify({ code }), { 'Content-Type': 'application/json' })) } catch (e) { setTrouble((e as Error).message) }
    setBusy(false)
  }
  const title = useMemo(() => `Sign this browser in${domain ? ` to ${domain}` : ''}?`, [domain])
  return <section class="notice accent" aria-labelledby="sign-in-title">
    <h2 id="sign-in-title">{title}</h2>
    <p>You have followed a link that <code>writ sign-in</code> made. If you did not run it yourself, leave this page: you would act in another's name.</p>
    {trouble && <Trouble>{trouble}</Trouble>}
    <p class="acts"><button type="button" class="main" id="sign-in" disabled={busy || !!trouble} onClick={() => void go()}>Sign in</button><button type="button" id="not-sign-in" onClick={() => done()}>Leave it</button></p>
  </section>
}

