import { useEffect, useRef, useState } from 'preact/hooks'

export interface Tally { name: string; count: number }
export interface InForce { generation: number; digest: string; not_after?: number; base: string[]; whole: boolean; entry: number }
export interface Coverage { class: string; reference?: InForce; nodes: number; current: number; earlier: number; never: number; legitimate: number }
export interface Finding { code: string; pcr?: number; event?: number; expected: string; found: string; next: string }
export interface Denial { index: number; at: number; subject: string; class: string; tier: string; times: number; findings?: Finding[] }
export interface Act { index: number; at: number; kind: string; subject: string; actor: string }
export interface Minute { at: number; granted: number; denied: number; revoked: number }
export interface Sample { at: number; states: number[]; tokens: number }
export interface Peer { log_key: string; self: boolean; first: boolean; retired: boolean; entry?: number }
export interface Known { domain: string; state: string; why?: string; seen: number; size: number; max_age: number }
export interface Policy {
  rules: number; token_life: number; min_level: string; approvals: number; reference_threshold: number; reference_keys: number
  prove_halt_every?: number; ek_vendors?: string; ek_roots: number
}
export interface Key { kid: string; state: string; from: number; until?: number; entry?: number }
export interface Session { operator: string; roles: string[]; csrf: string; acts: number; ends: number }
export interface Overview {
  domain: string; now: number; ready: boolean; size: number; at: number; epoch: number; frozen: boolean; act?: number
  nodes: number; tokens: number; states: Tally[]; statuses: Tally[]; coverage: Coverage[]; findings: Denial[]; acts: Act[]
  minutes: Minute[]; samples: Sample[]; peers: Peer[]; domains: Known[]; policy: Policy; keys: Key[]; evidence: boolean; session?: Session
  checkpoint: { size: number; root: string; signatures: number }
}
export interface Node {
  subject: string; id?: string; device?: string; class: string; status: string; state: string; deadline: number; seq: number
  enrolled: number; entry: number; decided?: number; decided_at?: number; decision?: string; tier?: string; judged: string; findings?: Finding[]
}
export interface Nodes { nodes: Node[]; total: number; next?: string }
export interface Link {
  index: number; at: number; kind: string; gone?: boolean; decision?: string; tier?: string; from?: string; to?: string
  seq?: number; prev?: string; iat?: number; exp?: number; level?: string; exec?: string; ended?: boolean
}
export interface Detail { node: Node; reference?: InForce; chain: Link[]; more: boolean; now: number }
export interface Component { event: number; pcr: number; type: string; what: string; digest: string; judgement: string; why: string }
export interface Change { change: string; pcr: number; name: string; now?: string; was?: string }
export interface Boot {
  index: number; decision: string; tier: string; at: number; until: number
  claims: { name: string; value: number; tier: string }[]; steps: { name: string; result: string; detail: string }[]
  components: Component[]; findings: Finding[]; set?: string; generation?: number
  ima_entries: number; ima_files: number; ima_violations: number
  before?: { index: number; boot: Change[]; files: Change[]; more: number }; missing?: string
}

/** A refusal in the verifier's own words. code is the last part of the problem's type; '' where the verifier did not answer. */
export class Refused extends Error {
  constructor(readonly code: string, message: string) { super(message) }
}

export async function ask<T>(method: string, path: string, body?: BodyInit, headers: Record<string, string> = {}): Promise<T> {
  let r: Response
  try {
    r = await fetch(path, { method, body, headers, credentials: 'same-origin', redirect: 'error', signal: AbortSignal.timeout(method === 'GET' ? 10_000 : 20_000) })
  } catch {
    throw new Refused('', 'The verifier cannot be reached.')
  }
  if (r.status === 204) return undefined as T
  const answer = await r.json().catch(() => ({})) as T & { type?: string; title?: string; detail?: string }
  if (r.ok) return answer
  throw new Refused((answer.type ?? '').split('/').pop() || 'internal', answer.detail || answer.title || `The verifier answered ${r.status}.`)
}

const root = '/v1/public/console'
const calm = 15_000 // what changes by time alone: tokens that expire
const retry = 5_000

export type Line = 'connecting' | 'live' | 'polling'

/** Counts up whenever there may be something new: when the verifier says so, and now and then. */
export function useBeat(): [beat: number, line: Line] {
  const [beat, setBeat] = useState(0)
  const [line, setLine] = useState<Line>('connecting')
  useEffect(() => {
    let events: EventSource | undefined
    let again = 0
    const next = () => setBeat(b => b + 1)
    const connect = () => {
      events = new EventSource(`${root}/events`)
      events.onopen = () => setLine('live')
      events.addEventListener('changed', next)
      events.onerror = () => {
        setLine('polling')
        next() // whether it is only this line that is down
        if (events!.readyState === EventSource.CLOSED) again = window.setTimeout(connect, retry)
      }
    }
    connect()
    return () => { events?.close(); clearTimeout(again) }
  }, [])
  useEffect(() => {
    const t = setInterval(() => setBeat(b => b + 1), line === 'live' ? calm : retry)
    return () => clearInterval(t)
  }, [line])
  return [beat, line]
}

export interface Got<T> { data?: T; trouble?: Refused; at: number }

/** What the console answers for a path, asked again with every beat. The last answer stays while a new one is awaited or fails. */
export function useAnswer<T>(path: string | undefined, beat: number): Got<T> {
  const [got, setGot] = useState<Got<T> & { path?: string }>({ at: 0 })
  const asking = useRef<{ path?: string; again: boolean }>({ again: false })
  useEffect(() => {
    if (path === undefined) return
    const now = asking.current
    if (now.path === path) { now.again = true; return } // one at a time
    const mine: { path?: string; again: boolean } = asking.current = { path, again: false }
    const go = () => ask<T>('GET', root + path).then(
      data => { if (asking.current === mine) setGot({ data, at: Date.now(), path }) },
      (trouble: Refused) => { if (asking.current === mine) setGot(g => ({ data: g.path === path ? g.data : undefined, at: g.at, trouble, path })) },
    ).then(() => {
      if (asking.current !== mine) return
      if (mine.again) { mine.again = false; void go() } else asking.current = { again: false }
    })
    void go()
  }, [path, beat])
  return got.path === path ? got : { data: got.data, at: got.at }
}

/** The address of a view: its query, which the reader can keep. */
export function address(change: Record<string, string | undefined>): string {
  const q = new URLSearchParams(location.search)
  for (const [k, v] of Object.entries(change)) v ? q.set(k, v) : q.delete(k)
  return q.size ? `/console?${q}` : '/console'
}
