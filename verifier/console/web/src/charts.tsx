import type { PlotOptions } from '@observablehq/plot'
import type { ComponentChildren } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'

/**
 * Pictures, each with the same figures as a table below it. They take the page's
 * colours and width. `at`, `from` and `to` are Unix seconds.
 */
export interface Series { name: string; points: { at: number; value: number }[] }
export type Tone = 'good' | 'bad' | 'warn' | 'soft' | 'accent'
export interface Bar { name: string; value: number; tone?: Tone }
export interface Span { row: string; from: number; to: number; state: string; tone?: Tone }

type Plot = typeof import('./plot')
const colour = (tone: Tone = 'accent') => `var(--${tone})`
const dashes = ['', '6 3', '2 3', '8 3 2 3'] // series differ by more than their colour
const time = (at: number) => new Date(at * 1000)
/** A moment as readers write it down: UTC, to the second. */
export const moment = (at: number) => time(at).toISOString().replace('T', ' ').replace(/(\.000)?Z$/, ' UTC')
/** A figure short enough for an axis or a cell. */
export const figure = (v: number) => Number.isInteger(v) ? v.toLocaleString('en') : Math.abs(v) >= 100 ? v.toFixed(0) : Number(v.toPrecision(3)).toString()

/** Values over time, one line a series. */
export function Line({ label, unit, series, none, height = 150 }: { label: string; unit: string; series: Series[]; none?: string; height?: number }) {
  const rows = series.flatMap(s => s.points.map(p => [s.name, moment(p.at), figure(p.value)]))
  const draw = (p: Plot): PlotOptions => ({
    height, marginLeft: 48, marginRight: series.length > 1 ? 84 : 16, x: { type: 'utc', label: null }, y: { label: unit, nice: true, zero: true, tickFormat: figure },
    marks: [
      p.gridY({ ticks: 4, stroke: 'var(--line)', strokeOpacity: 1 }), p.axisY({ ticks: 4, tickSize: 0, tickFormat: figure }), p.axisX({ ticks: 4, tickSize: 3, label: null, tickFormat: clock(series.flatMap(s => s.points.map(q => q.at))) }),
      ...series.flatMap((s, i) => [
        p.lineY(s.points, { x: d => time(d.at), y: 'value', stroke: 'var(--accent)', strokeDasharray: dashes[i % dashes.length], strokeWidth: 1.75 }),
        ...series.length > 1 && s.points.length ? [p.text([s.points[s.points.length - 1]], { x: d => time(d.at), y: 'value', text: () => s.name, textAnchor: 'start', dx: 6 })] : [],
      ]),
    ],
  })
  return <Picture label={label} empty={!rows.length} none={none} draw={draw} of={series}><Table head={['Series', 'Time', unit]} rows={rows} /></Picture>
}

/** One bar a name, with its value written beside it. */
export function Bars({ label, unit, bars, none }: { label: string; unit: string; bars: Bar[]; none?: string }) {
  const draw = (p: Plot, width: number): PlotOptions => {
    const left = Math.min(8 + 6.5 * Math.max(...bars.map(b => b.name.length)), width * .45)
    return {
      height: 8 + 24 * bars.length, marginLeft: left, marginRight: 52, marginTop: 4, marginBottom: 4, x: { axis: null, zero: true }, y: { label: null, domain: bars.map(b => b.name), padding: .3 },
      marks: [
        p.barX(bars, { x: 'value', y: 'name', fill: (b: Bar) => b.tone ?? 'accent' }),
        p.text(bars, { x: 'value', y: 'name', text: (b: Bar) => figure(b.value), textAnchor: 'start', dx: 5 }),
        p.axisY({ tickSize: 0, label: null, tickFormat: (n: string) => cut(n, left) }), p.ruleX([0], { stroke: 'var(--soft)' }),
      ],
      color: tones,
    }
  }
  return <Picture label={`${label} (${unit})`} empty={!bars.length} none={none} draw={draw} of={bars}><Table head={['Name', unit]} rows={bars.map(b => [b.name, figure(b.value)])} /></Picture>
}

/** What each row was, from when to when. */
export function Timeline({ label, spans }: { label: string; spans: Span[] }) {
  const names = [...new Set(spans.map(s => s.row))]
  const draw = (p: Plot, width: number): PlotOptions => {
    const left = Math.min(8 + 6.5 * Math.max(...names.map(n => n.length)), width * .35)
    const first = Math.min(...spans.map(s => s.from)), last = Math.max(...spans.map(s => s.to), first + 1)
    const room = (s: Span) => (s.to - s.from) / (last - first) * (width - left - 16) // px
    return {
      height: 34 + 30 * names.length, marginLeft: left, marginRight: 16, marginTop: 4, x: { type: 'utc', label: null, domain: [time(first), time(last)] }, y: { label: null, domain: names, padding: .2 },
      marks: [
        p.barX(spans, { x1: (s: Span) => time(s.from), x2: (s: Span) => time(s.to), y: 'row', fill: (s: Span) => s.tone ?? 'accent', insetLeft: .5, insetRight: .5, title: (s: Span) => `${s.state}, ${moment(s.from)} to ${moment(s.to)}` }),
        p.text(spans.filter(s => room(s) > 6.5 * s.state.length + 8), { x: (s: Span) => time((s.from + s.to) / 2), y: 'row', text: 'state', fill: 'var(--bg)', fontWeight: 600 }),
        p.axisY({ tickSize: 0, label: null, tickFormat: (n: string) => cut(n, left) }), p.axisX({ ticks: width < 420 ? 2 : 4, tickSize: 3, label: null, tickFormat: clock([first, last]) }),
      ],
      color: tones,
    }
  }
  return <Picture label={label} empty={!spans.length} draw={draw} of={spans}><Table head={['Row', 'State', 'From', 'To']} rows={spans.map(s => [s.row, s.state, moment(s.from), moment(s.to)])} /></Picture>
}

const tones: PlotOptions['color'] = { type: 'ordinal', domain: ['good', 'bad', 'warn', 'soft', 'accent'], range: (['good', 'bad', 'warn', 'soft', 'accent'] as const).map(colour) }

/** Ticks as times of the day, to the second where the picture covers minutes, or as dates where it covers days; UTC. */
function clock(at: number[]) {
  const covers = at.length ? Math.max(...at) - Math.min(...at) : 0
  return (d: Date) => covers > 36 * 3600 ? d.toISOString().slice(5, 10) : d.toISOString().slice(11, covers < 600 ? 19 : 16)
}

function cut(name: string, room: number) {
  const most = Math.floor((room - 8) / 6.5)
  return name.length > most ? name.slice(0, most - 1) + '…' : name
}

/** A mark of a picture, and what it stands for. */
export type Key = [name: string, colour: string]

interface Drawn {
  label: string; of: unknown; draw: (p: Plot, width: number) => PlotOptions; children: ComponentChildren
  empty: boolean; none?: string // what is said while there is nothing to draw
  most?: number // px: how wide it gets
  keys?: Key[]
}

export function Picture({ label, empty, none = 'Nothing yet.', draw, of, most, keys = [], children }: Drawn) {
  const box = useRef<HTMLDivElement>(null)
  const [width, setWidth] = useState(0)
  const [trouble, setTrouble] = useState('')
  useEffect(() => {
    const o = new ResizeObserver(e => setWidth(Math.min(Math.floor(e[0].contentRect.width), most ?? Infinity)))
    o.observe(box.current!)
    return () => o.disconnect()
  }, [])
  useEffect(() => {
    if (!width || empty) return
    let gone = false
    import('./plot').then(p => {
      if (gone || !box.current) return
      const svg = p.plot({ width, ...draw(p, width) })
      svg.querySelectorAll('style').forEach(s => s.remove()) // the policy allows none; design.css has it
      svg.querySelectorAll('g[aria-label]').forEach(g => g.removeAttribute('aria-label')) // of a picture only the whole has a name
      svg.setAttribute('role', 'img')
      svg.setAttribute('aria-label', `${label}; the table below has the figures`)
      box.current.replaceChildren(svg)
    }, () => setTrouble('The picture could not be loaded; the table has its figures.'))
    return () => { gone = true }
  }, [width, empty, JSON.stringify(of)])
  return <figure class="chart">
    <figcaption>{label}</figcaption>
    <div ref={box} class="picture">{empty ? <p class="soft none">{none}</p> : trouble && <p class="soft">{trouble}</p>}</div>
    {!empty && keys.length > 0 && <ul class="legend" aria-hidden="true">{keys.map(([name, colour]) => <li key={name}><svg viewBox="0 0 10 10" width="10" height="10"><rect width="10" height="10" rx="2" fill={colour} /></svg>{name}</li>)}</ul>}
    {!empty && <details><summary>As a table</summary><div class="scroll" tabIndex={0} role="region" aria-label={`${label}, as a table`}>{children}</div></details>}
  </figure>
}

export function Table({ head, rows }: { head: string[]; rows: string[][] }) {
  return <table>
    <thead><tr>{head.map(h => <th key={h} scope="col">{h}</th>)}</tr></thead>
    <tbody>{rows.map((r, i) => <tr key={i}>{r.map((c, j) => j ? <td key={j}>{c}</td> : <th key={j} scope="row">{c}</th>)}</tr>)}</tbody>
  </table>
}
