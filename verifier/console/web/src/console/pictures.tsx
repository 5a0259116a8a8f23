import type { PlotOptions } from '@observablehq/plot'
import { useEffect, useState } from 'preact/hooks'
import { moment, Picture, Table } from '../charts'
import { fetchEntry } from '../log'
import type { Component, Coverage, Link, Overview } from './data'

const tint = (tone: string, part = 100) => part === 100 ? `var(--${tone})` : `color-mix(in srgb, var(--${tone}) ${part}%, var(--panel))`

/** Colours of the seven states, from the bottom of a picture up. */
const shades: Record<string, string> = {
  synchronized: tint('good', 62), 'elevated-assurance': tint('accent', 62), verified: tint('good', 30), initialized: tint('soft', 35),
  constrained: tint('warn', 62), 'fail-closed-restricted': tint('bad', 62), 'execution-terminated': tint('bad', 30),
}

/** How many nodes were in which state. */
export function States({ of: o }: { of: Overview }) {
  // What counts now goes on from the last sample, so that there is a picture from the first moment.
  const since = o.samples[0]?.at ?? o.now
  const latest = o.samples[o.samples.length - 1]?.at ?? since - 1
  const samples = [...o.samples, ...[since, o.now, Math.max(o.now, since + 5)].filter((at, i, all) => at > latest && all.indexOf(at) === i).map(at => ({ at, states: o.states.map(s => s.count) }))]
  const names = Object.keys(shades).filter(n => samples.some(s => s.states[o.states.findIndex(t => t.name === n)]))
  const rows = samples.flatMap(s => names.map(name => ({ at: new Date(s.at * 1000), name, count: s.states[o.states.findIndex(t => t.name === name)] })))
  const brief = o.now - since < 600
  const draw = (p: typeof import('../plot'), width: number): PlotOptions => ({
    height: 190, marginLeft: 48, marginRight: 24, x: { type: 'utc', label: null }, y: { label: null, zero: true, nice: true },
    color: { domain: names, range: names.map(n => shades[n]) },
    marks: [
      p.areaY(rows, { x: 'at', y: 'count', fill: 'name', curve: 'step-after', order: names }),
      p.gridY({ ticks: 4, stroke: 'var(--line)', strokeOpacity: .6 }), p.axisY({ ticks: 4, tickSize: 0, label: null, tickFormat: (v: number) => Number.isInteger(v) ? v.toLocaleString('en') : '' }),
      p.axisX({ ticks: width < 420 ? 2 : 4, tickSize: 3, label: null, tickFormat: (d: Date) => d.toISOString().slice(11, brief ? 19 : 16) }),
    ],
  })
  return <Picture label="Nodes by state over the last hour" empty={!names.length} none="No node has enrolled yet." draw={draw} of={rows} keys={names.map(n => [n, shades[n]])}>
      <Table head={['Time', ...names]} rows={samples.slice(-60).reverse().map(s => [moment(s.at), ...names.map(n => String(s.states[o.states.findIndex(t => t.name === n)]))])} />
    </Picture>
}

const covered: [key: 'current' | 'earlier' | 'never', name: string, colour: string][] = [
  ['current', 'judged by the set in force', tint('good', 75)], ['earlier', 'judged by an earlier set', tint('warn', 75)], ['never', 'never judged by one', tint('soft', 45)],
]

/** Each node is a square, or a share of one: which set judged it. */
export function Map({ of: all }: { of: Coverage[] }) {
  const total = Math.max(...all.map(c => c.nodes), 1)
  const unit = Math.max(1, Math.ceil(total / 240))
  const shown = all.filter(c => c.nodes > 0).sort((a, b) => b.nodes - a.nodes).slice(0, 12)
  const rows = shown.flatMap(c => covered.map(([key, name]) => ({ class: c.class, name, count: c[key] })))
  const draw = (p: typeof import('../plot'), width: number): PlotOptions => ({
    height: 20 + 44 * shown.length, marginLeft: Math.min(16 + 7 * Math.max(...shown.map(c => c.class.length)), width * .4), marginRight: 8, marginTop: 4, marginBottom: 12,
    x: { axis: null, domain: [0, Math.max(total, 24 * unit)] }, y: { label: null, domain: shown.map(c => c.class), padding: .25 }, color: { domain: covered.map(c => c[1]), range: covered.map(c => c[2]) },
    marks: [p.waffleX(rows, { x: 'count', y: 'class', fill: 'name', unit, gap: 1.5, rx: 2 }), p.axisY({ tickSize: 0, label: null, tickFormat: (s: string) => s.length > 18 ? s.slice(0, 17) + '…' : s })],
  })
  return <Picture label={`Which reference set judged the nodes, by class${unit > 1 ? ` (a square is ${unit} nodes)` : ''}`} empty={!shown.length} none="No node has enrolled yet." draw={draw} of={rows} keys={covered.map(c => [c[1], c[2]])}>
    <Table head={['Class', ...covered.map(c => c[1])]} rows={all.map(c => [c.class, ...covered.map(([key]) => String(c[key]))])} />
  </Picture>
}

const judged: Record<string, [colour: string, sign: string]> = {
  allowed: [tint('good', 75), ''], unjudged: [tint('soft', 40), ''], unknown: [tint('warn'), '?'], vulnerable: [tint('bad', 65), '!'], denied: [tint('bad'), '✕'],
}

/** A boot: what was measured, in order, by PCR. */
export function BootPicture({ of: all }: { of: Component[] }) {
  const names = Object.keys(judged)
  const pcrs = [...new Set(all.map(c => c.pcr))].sort((a, b) => a - b)
  const odd = all.map((c, i) => ({ ...c, at: i })).filter(c => judged[c.judgement]?.[1])
  const draw = (p: typeof import('../plot')): PlotOptions => ({
    height: 34 + 20 * pcrs.length, marginLeft: 52, marginRight: 8, marginTop: 4, x: { label: 'measured, in order', domain: [0, all.length] }, y: { label: null, domain: pcrs, padding: .18 },
    color: { domain: names, range: names.map(n => judged[n][0]) },
    marks: [
      p.barX(all.map((c, i) => ({ ...c, at: i })), { x1: 'at', x2: (c: { at: number }) => c.at + 1, y: 'pcr', fill: 'judgement', insetLeft: .4, insetRight: .4, title: (c: Component) => `event ${c.event}, ${c.type}\n${c.what}\n${c.judgement}: ${c.why}` }),
      p.text(odd, { x: (c: { at: number }) => c.at + .5, y: 'pcr', text: (c: Component) => judged[c.judgement][1], fill: 'var(--bg)', fontWeight: 700 }),
      p.axisY({ tickSize: 0, label: null, tickFormat: (n: number) => `PCR ${n}` }), p.axisX({ ticks: 6, tickSize: 3, label: 'measured, in order' }),
    ],
  })
  return <Picture label="The boot, measurement by measurement" empty={!all.length} none="No boot log was judged." draw={draw} of={all.map(c => c.digest + c.judgement)} keys={names.filter(n => all.some(c => c.judgement === n)).map(n => [n, judged[n][0]])}>
    <Table head={['PCR', ...names]} rows={pcrs.map(n => [String(n), ...names.map(j => String(all.filter(c => c.pcr === n && c.judgement === j).length))])} />
  </Picture>
}

/** When a node was legitimate, and when not, as far as its last decisions tell. */
export function spansOf(chain: Link[], now: number, ends: number[]) {
  const bases = chain.filter(l => l.kind !== 'execution.admitted' && !l.gone).reverse()
  const out: { row: string; from: number; to: number; state: string; tone: 'good' | 'bad' | 'warn' | 'soft' }[] = []
  const add = (from: number, to: number, state: string, tone: 'good' | 'bad' | 'soft') => {
    const last = out[out.length - 1]
    if (last && last.state === state && last.to >= from - 1) last.to = Math.max(last.to, to)
    else if (to > from) out.push({ row: 'state', from, to, state, tone })
  }
  bases.forEach((l, i) => {
    const next = bases[i + 1]?.at ?? now
    if (l.decision === 'deny') return add(l.at, next, 'denied', 'bad')
    const act = ends.filter(t => t >= l.at && t < next).sort((a, b) => a - b)[0]
    const end = Math.min(l.exp ?? l.at, next, act ?? Infinity)
    add(l.at, end, 'legitimate', 'good')
    if (end < next) add(end, next, end === act ? 'ended' : 'lapsed', end === act ? 'bad' : 'soft')
  })
  return out
}

interface Step { level: number; hash: string; side: 'left' | 'right' | 'leaf' | 'root' }

/** The hashes that lead from an entry to the signed root (RFC 6962, 2.1.3.2), computed here where the log's entries are public. */
async function path(index: number): Promise<{ steps: Step[]; holds?: boolean; size: number }> {
  const receipt = await fetch(`/log/proof/${index}`).then(r => r.ok ? r.text() : Promise.reject(new Error('The proof could not be fetched.')))
  const [head, note] = receipt.split('\n\n')
  const hashes = head.split('\n').filter(l => /^[A-Za-z0-9+/]{43}=$/.test(l))
  const [, size, rootHash] = note.split('\n')
  const entry = await fetchEntry('', index).then(e => new TextEncoder().encode(e.entry), () => undefined)
  const steps: Step[] = []
  let fn = index, sn = Number(size) - 1
  let hash = entry && await sha256([Uint8Array.of(0), entry])
  steps.push({ level: 0, hash: hash ? base64(hash) : '', side: 'leaf' })
  for (const [i, h] of hashes.entries()) {
    const other = Uint8Array.from(atob(h), c => c.charCodeAt(0))
    const left = fn % 2 === 1 || fn === sn
    steps.push({ level: i, hash: h, side: left ? 'left' : 'right' })
    if (hash) hash = await sha256([Uint8Array.of(1), ...left ? [other, hash] : [hash, other]])
    if (left) while (fn % 2 === 0 && fn !== 0) { fn = Math.floor(fn / 2); sn = Math.floor(sn / 2) }
    fn = Math.floor(fn / 2); sn = Math.floor(sn / 2)
  }
  steps.push({ level: hashes.length, hash: rootHash, side: 'root' })
  return { steps, holds: hash && base64(hash) === rootHash, size: Number(size) }
}

async function sha256(parts: Uint8Array[]) {
  return new Uint8Array(await crypto.subtle.digest('SHA-256', await new Blob(parts as BlobPart[]).arrayBuffer()))
}
const base64 = (b: Uint8Array) => btoa(String.fromCharCode(...b))

/** The Merkle path of an entry, from the leaf at the bottom to the signed root. */
export function MerklePath({ index }: { index: number }) {
  const [got, setGot] = useState<Awaited<ReturnType<typeof path>>>()
  const [trouble, setTrouble] = useState('')
  useEffect(() => {
    let gone = false
    path(index).then(g => { if (!gone) { setGot(g); setTrouble('') } }, (e: Error) => { if (!gone) setTrouble(e.message) })
    return () => { gone = true }
  }, [index])
  if (trouble) return <p class="soft">{trouble}</p>
  if (!got) return <p class="soft" aria-busy="true">Fetching the proof…</p>
  const siblings = got.steps.filter(s => s.side === 'left' || s.side === 'right')
  const levels = siblings.length
  const on = Array.from({ length: levels + 1 }, (_, level) => ({ level, side: 0, name: level === 0 ? `entry ${index}` : level === levels ? 'signed root' : '' }))
  const off = siblings.map(s => ({ level: s.level, side: s.side === 'left' ? -1 : 1, name: s.hash.slice(0, 8) }))
  const draw = (p: typeof import('../plot')): PlotOptions => ({
    height: 50 + 34 * (levels + 1), marginLeft: 8, marginRight: 8, marginTop: 14, marginBottom: 14, x: { axis: null, domain: [-2.2, 2.2] }, y: { axis: null, domain: [-.2, levels + .2] },
    marks: [
      p.link(off, { x1: 'side', y1: 'level', x2: 0, y2: (d: { level: number }) => d.level + 1, stroke: 'var(--soft)', strokeOpacity: .6 }),
      p.link(on.slice(0, -1), { x1: 0, y1: 'level', x2: 0, y2: (d: { level: number }) => d.level + 1, stroke: 'var(--accent)', strokeWidth: 2 }),
      p.dot(off, { x: 'side', y: 'level', r: 4, fill: 'var(--panel)', stroke: 'var(--soft)' }), p.dot(on, { x: 0, y: 'level', r: 5, fill: 'var(--accent)' }),
      p.text(off, { x: 'side', y: 'level', text: 'name', dx: 10, textAnchor: 'start', filter: (d: { side: number }) => d.side > 0, fontFamily: 'var(--mono)' }),
      p.text(off, { x: 'side', y: 'level', text: 'name', dx: -10, textAnchor: 'end', filter: (d: { side: number }) => d.side < 0, fontFamily: 'var(--mono)' }),
      p.text(on, { x: 0, y: 'level', text: 'name', dx: 12, dy: -2, textAnchor: 'start', fontWeight: 600 }),
    ],
  })
  return <>
    <Picture label={`From entry ${index} to the root of ${got.size.toLocaleString('en')} entries`} empty={!levels} none="It is the only entry: its hash is the root." most={560} draw={draw} of={got.steps}>
      <Table head={['Level', 'What', 'Hash (base64)']} rows={got.steps.map(s => [String(s.level), s.side === 'leaf' || s.side === 'root' ? s.side : `sibling on the ${s.side}`, s.hash || 'the entry is not public'])} />
    </Picture>
    <p class="soft">{got.holds === undefined ? 'The entry itself is not public, so nothing was computed.' : got.holds ? 'Computed in this browser: the hashes lead to the root of the checkpoint. Whether the log signed it, /proof checks with keys that you bring.' : 'The hashes do not lead to the root: this log contradicts itself.'}</p>
  </>
}
