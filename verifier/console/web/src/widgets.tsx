import type { ComponentChildren } from 'preact'

/** The seven states of a node and the results of a check: shape, word and colour, never colour alone. */
const states: Record<string, [shape: string, tone: string]> = {
  pending: ['◌', 'soft'], legitimate: ['●', 'good'], degraded: ['◐', 'warn'], expired: ['○', 'warn'],
  suspended: ['❚', 'warn'], revoked: ['✕', 'bad'], retired: ['–', 'soft'],
  pass: ['✓', 'good'], fail: ['✕', 'bad'], skipped: ['–', 'warn'],
  verified: ['✓', 'good'], denied: ['✕', 'bad'], invalid: ['✕', 'bad'], partial: ['◐', 'warn'],
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
      <span class="brand">Writ</span>
      {pages.map(p => <a key={p} href={`/${p}`} aria-current={p === page ? 'page' : undefined}>{p}</a>)}
    </nav></header>
    <main id="main" tabIndex={-1}>{children}</main>
  </>
}
