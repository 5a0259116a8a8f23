import type { ComponentChildren } from 'preact'

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

export function Badge({ state }: { state: string }) {
  const [shape, tone] = states[state] ?? ['?', 'soft']
  return <span class={`badge ${tone}`}><span aria-hidden="true">{shape}</span> {state}</span>
}

/** Trouble says what went wrong where it went wrong, and what to do. */
export function Trouble({ children }: { children: ComponentChildren }) {
  return <div class="notice bad" role="alert"><p>{children}</p></div>
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
