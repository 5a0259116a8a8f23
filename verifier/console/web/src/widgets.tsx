import { createContext, type ComponentChildren } from 'preact'
import { useContext } from 'preact/hooks'
import { moment } from './charts'

/** A node's status, its seven states and the results of a check, in the verifier's words: shape, word and colour, never colour alone. */
const states: Record<string, [shape: string, tone: string]> = {
  pending: ['◌', 'soft'], active: ['●', 'good'], suspended: ['❚', 'warn'], revoked: ['✕', 'bad'], retired: ['–', 'soft'],
  initialized: ['◌', 'soft'], verified: ['✓', 'good'], synchronized: ['●', 'good'], constrained: ['◐', 'warn'],
  'elevated-assurance': ['◆', 'good'], 'fail-closed-restricted': ['❚', 'bad'], 'execution-terminated': ['✕', 'bad'],
  pass: ['✓', 'good'], fail: ['✕', 'bad'], skipped: ['–', 'warn'],
  ok: ['✓', 'good'], failed: ['✕', 'bad'], ready: ['✓', 'good'], 'not ready': ['✕', 'bad'],
  grant: ['✓', 'good'], deny: ['✕', 'bad'], affirming: ['✓', 'good'], warning: ['◐', 'warn'], contraindicated: ['✕', 'bad'], none: ['–', 'soft'],
  allowed: ['✓', 'good'], unknown: ['?', 'warn'], vulnerable: ['!', 'bad'], unjudged: ['–', 'soft'],
  running: ['●', 'good'], ended: ['■', 'soft'], unreported: ['?', 'warn'], measured: ['✓', 'good'], asserted: ['◐', 'warn'],
  runs: ['●', 'good'], stopped: ['✕', 'bad'], frozen: ['❚', 'bad'], valid: ['✓', 'good'], lapsed: ['✕', 'bad'],
  accepted: ['✓', 'good'], closed: ['✕', 'bad'],
  denied: ['✕', 'bad'], invalid: ['✕', 'bad'], partial: ['◐', 'warn'],
}

/** Those that stay true: results, not how something is now. */
const lasting = new Set(['pass', 'fail', 'skipped', 'grant', 'deny', 'affirming', 'warning', 'contraindicated', 'none', 'allowed', 'denied', 'unknown', 'vulnerable', 'unjudged', 'measured', 'asserted', 'invalid', 'partial', 'ended'])

/** Whether what is shown may be true no more: the verifier does not answer. */
const Past = createContext(false)

/** What a table of words says for a word that may be anybody's. */
export const said = <T,>(table: Record<string, T>, word: string): T | undefined => Object.hasOwn(table, word) ? table[word] : undefined

export function Badge({ state }: { state: string }) {
  const past = useContext(Past) && !lasting.has(state)
  const [shape, tone] = past ? ['?', 'soft'] : said(states, state) ?? ['?', 'soft']
  if (past) return <span class="badge soft"><span aria-hidden="true">{shape}</span> was {state}</span>
  return <span class={`badge ${tone}`}><span aria-hidden="true">{shape}</span> {state}</span>
}

/** Trouble says what went wrong where it went wrong, and what to do. */
export function Trouble({ children }: { children: ComponentChildren }) {
  return <div class="notice bad" role="alert"><p>{children}</p></div>
}

/** What was heard last, at a time (ms). While nothing more is heard (why), it says so above, and shows nothing as if it were of now. */
export function Heard({ why, at, children }: { why?: string; at: number; children: ComponentChildren }) {
  return <Past.Provider value={!!why}>
    {why && <div class="away"><Trouble>{why} {at > 0 && <>What is shown is of <time dateTime={new Date(at).toISOString()}>{moment(Math.floor(at / 1000))}</time>, and may have changed. </>}Trying again.</Trouble></div>}
    <div class={why ? 'past' : undefined}>{children}</div>
  </Past.Provider>
}

export function Frame({ page, pages, children }: { page: string; pages: string[]; children: ComponentChildren }) {
  return <>
    <a class="skip" href="#main">Skip to content</a>
    <header class="top"><nav aria-label="Pages">
      {pages.length ? <a class="brand" href="/" aria-current={page ? undefined : 'page'}>Writ</a> : <span class="brand">Writ</span>}
      {pages.map(p => <a key={p} href={`/${p}`} aria-current={p === page ? 'page' : undefined}>{p}</a>)}
    </nav></header>
    <main id="main" tabIndex={-1}>{children}</main>
  </>
}

/** What a reader gave: text that was pasted, or a file that was chosen or dropped. */
export type Given = string | File

export function Source({ id, label, rows, value, set }: { id: string; label: string; rows: number; value: Given; set: (v: Given) => void }) {
  const drop = (e: DragEvent) => {
    const f = e.dataTransfer?.files[0]
    if (f) { e.preventDefault(); set(f) }
  }
  const paste = (e: ClipboardEvent) => { // a field that showed megabytes would stop the page
    const text = e.clipboardData?.getData('text') ?? ''
    if (text.length > 1 << 20) { e.preventDefault(); set(new File([text], 'pasted text')) }
  }
  return <div class="source" onDragOver={e => e.preventDefault()} onDrop={drop}>
    <label for={id}>{label}</label>
    {typeof value === 'string'
      ? <textarea id={id} rows={rows} spellcheck={false} placeholder="Paste it, or drop a file here" value={value} onPaste={paste} onInput={e => set(e.currentTarget.value)} />
      : <p class="given"><output id={id}><code>{value.name}</code> ({value.size.toLocaleString('en')} bytes)</output> <button type="button" onClick={() => set('')}>Remove</button></p>}
    <input type="file" aria-label={`${label}: choose a file`} onChange={e => { const f = e.currentTarget.files?.[0]; if (f) set(f); e.currentTarget.value = '' }} />
  </div>
}
