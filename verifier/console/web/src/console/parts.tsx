import type { ComponentChildren } from 'preact'
import { moment } from '../charts'
import type { Finding } from './data'

const proves = (document.getElementById('app')?.dataset.pages ?? '').split(' ').includes('proof')

/** An entry of the log, where it can be checked. */
export function Entry({ index, label }: { index: number; label?: string }) {
  const name = label ?? `entry ${index}`
  return proves
    ? <a class="entry" href={`/proof#${index}`} title={`Check the proof of entry ${index}`}>{name}</a>
    : <a class="entry" href={`/log/proof/${index}`} title={`The proof of entry ${index}`}>{name}</a>
}

/** A moment, to the second. */
export const When = ({ at }: { at: number }) => <time class="when" dateTime={new Date(at * 1000).toISOString()}>{moment(at)}</time>

/** A long digest or pseudonym, cut for the eye alone. */
export const Short = ({ of, most = 12 }: { of: string; most?: number }) => of.length <= most
  ? <code>{of}</code> : <code title={of}><span aria-hidden="true">{of.slice(0, most)}…</span><span class="unseen">{of}</span></code>

export const Facts = ({ children }: { children: ComponentChildren }) => <dl class="facts">{children}</dl>
export const Fact = ({ name, children }: { name: string; children: ComponentChildren }) => <div><dt>{name}</dt><dd>{children}</dd></div>

export function place(f: Finding): string {
  return [f.pcr !== undefined && `PCR ${f.pcr}`, f.event !== undefined && `event ${f.event}`].filter(Boolean).join(', ')
}

export function FindingCard({ of: f }: { of: Finding }) {
  return <li class="finding">
    <p><b>{f.code}</b> <span class="soft">{place(f)}</span></p>
    <dl><dt>expected</dt><dd>{f.expected}</dd><dt>found</dt><dd>{f.found}</dd><dt>what to do</dt><dd>{f.next}</dd></dl>
  </li>
}

export function Notice({ tone = 'soft', children }: { tone?: string; children: ComponentChildren }) {
  return <div class={`notice ${tone}`} role="status"><p>{children}</p></div>
}

/** A table that may be wider than the screen. */
export function Wide({ name, head, list, children }: { name: string; head: string[]; list?: boolean; children: ComponentChildren }) {
  return <div class={list ? 'scroll list' : 'scroll'} tabIndex={0} role="region" aria-label={name}><table>
    <thead><tr>{head.map(h => <th scope="col" key={h}>{h}</th>)}</tr></thead>
    <tbody>{children}</tbody>
  </table></div>
}

export const number = (n: number) => n.toLocaleString('en')

/** The finding that only says what the others led to. */
export const consequence = 'claim/not-affirming'
