import type { ComponentChildren } from 'preact'
import { Bars, figure, Line, moment, type Bar } from '../charts'
import { useLoaded } from '../fetch'
import { Badge, Heard } from '../widgets'

interface Sample { labels: Record<string, string>; value: number; count?: number; buckets?: { most: number; count: number }[] }
interface Health {
  at: number; domain: string; verifier: string
  metrics: { name: string; help: string; type: string; samples: Sample[] }[]
  growth: { at: number; size: number }[]
}

const every = 5000

export default function Page() {
  const { value: h, at, trouble } = useLoaded<Health>('/v1/public/health', every)
  return <>
    <h1>Health</h1>
    <p class="soft">The figures that Prometheus scrapes from this verifier, each under the name it has there. Counts begin when the verifier starts. Read again every {every / 1000} seconds.</p>
    <Heard why={trouble} at={at}>{h ? <Figures h={h} /> : !trouble && <p class="soft" role="status" aria-busy="true">Reading the figures.</p>}</Heard>
  </>
}

/** What each check of readiness is about, and where to look when it fails. */
const checks: Record<string, string> = {
  keys: 'A token key signs.', log: 'The database takes changes, and the log is the one this verifier signed.',
  clock: 'The wall clock was not stepped.', governance: 'Operators have not frozen the domain.', serving: 'The verifier is not shutting down.', witnesses: 'As many witnesses as must have cosigned the log.',
}

function Figures({ h }: { h: Health }) {
  const of = (name: string) => h.metrics.find(m => m.name === name)?.samples ?? []
  const one = (name: string) => of(name)[0]?.value
  const sum = (name: string, match: Record<string, string> = {}) => of(name).filter(s => Object.entries(match).every(([k, v]) => s.labels[k] === v)).reduce((n, s) => n + s.value, 0)
  const age = (name: string) => { const at = one(name); return at ? Math.max(0, h.at - at) : undefined }
  const ready = of('writ_ready'), good = ready.length > 0 && ready.every(s => s.value === 1)
  const evidence = merge(of('writ_evidence_age_seconds')), nodes = merge(of('writ_node_evidence_age_seconds')), stops = merge(of('writ_stop_latency_seconds'))
  const size = one('writ_log_size_entries') ?? 0, first = h.growth[0]
  const minutes = first ? Math.max(1, (h.at - first.at) / 60) : 1
  return <>
    <Card id="readiness" name={<>Readiness: <Badge state={good ? 'ready' : 'not ready'} /></>}>
      <p class="soft" id="as-of">Verifier {h.verifier} of {h.domain}, {moment(h.at)}</p>
      <Values across of={ready.map(s => [<><Badge state={s.value ? 'ok' : 'failed'} /> {s.labels.check}</>, checks[s.labels.check] ?? '', `writ_ready{check="${s.labels.check}"}`])} />
      {!good && <p>Tokens are not issued, and work stops when its tokens end. Why a check fails is said at <code>/readyz?verbose</code> on the verifier’s admin address.</p>}
    </Card>
    <div class="cards">
    <Card id="log" name="Log">
      <Values of={[
        ['Entries', figure(size), 'writ_log_size_entries'],
        ['Age of the last entry', span(age('writ_log_checkpoint_timestamp_seconds')), 'writ_log_checkpoint_timestamp_seconds'],
        ['New entries in the last hour', first ? `${figure(size - first.size)}, ${figure((size - first.size) / minutes)} a minute` : '–', 'writ_log_size_entries'],
      ]} />
      <Line label="Entries over the last hour" unit="entries" series={[{ name: 'entries', points: h.growth.map(g => ({ at: g.at, value: g.size })) }]} />
    </Card>
    <Card id="witnesses" name="Witnesses">
      <Values of={[
        ['Configured', figure(one('writ_witnesses') ?? 0), 'writ_witnesses'],
        ...one('writ_witnesses') ? [
          ['Entries cosigned', `${figure(one('writ_log_witnessed_entries') ?? 0)}, ${figure(size - (one('writ_log_witnessed_entries') ?? 0))} are not`, 'writ_log_witnessed_entries'],
          ['Age of the last cosignature', span(age('writ_log_witnessed_timestamp_seconds')), 'writ_log_witnessed_timestamp_seconds'],
          ...of('writ_witness_cosigned_entries').map(s => [s.labels.witness, s.value ? `${figure(s.value)} entries` : 'has not cosigned', 'writ_witness_cosigned_entries'] as Value),
        ] as Value[] : [],
      ]} />
      {!one('writ_witnesses') && <p class="soft">Nobody cosigns this log. A verifier could show different histories to different readers; <code>witnesses</code> in the configuration prevents that.</p>}
    </Card>
    <Card id="evidence" name="Evidence">
      <Values of={[
        ['Legitimate nodes', figure(nodes.count), 'writ_node_evidence_age_seconds_count'],
        ['Age of their evidence, oldest tenth', quantile(nodes, .9), 'writ_node_evidence_age_seconds'],
        ['Challenge to verdict, median', quantile(evidence, .5), 'writ_evidence_age_seconds'],
        ['Affirmed', figure(sum('writ_appraisals_total', { result: 'affirming' })), 'writ_appraisals_total'],
        ['Not affirmed', figure(sum('writ_appraisals_total') - sum('writ_appraisals_total', { result: 'affirming' })), 'writ_appraisals_total'],
      ]} />
      {nodes.count ? <Bars label="Age of the evidence that legitimate nodes rest on" unit="nodes" bars={steps(nodes)} />
        : <p class="soft">No node is legitimate now. <code>writ provision</code> enrols one, <code>writ node approve</code> lets it in, and <code>writ agent</code> on it attests.</p>}
    </Card>
    <Card id="stops" name="Time to stop">
      <Values of={[
        ['Stopped at a deadline or by order', figure(stops.count), 'writ_stop_latency_seconds_count'],
        ['Median', quantile(stops, .5), 'writ_stop_latency_seconds'],
        ['90 of 100 within', quantile(stops, .9), 'writ_stop_latency_seconds'],
        ['99 of 100 within', quantile(stops, .99), 'writ_stop_latency_seconds'],
        ['Not confirmed by a keeper', figure(sum('writ_stops_total', { confirmed: 'false' })), 'writ_stops_total'],
      ]} />
      {stops.count ? <Bars label="From deadline or order to the last process gone" unit="executions" bars={steps(stops)} />
        : <p class="soft">No work was stopped since this verifier started. <code>writ run</code> on a node starts some.</p>}
    </Card>
    <Card id="database" name="Database and clock">
      <Values of={[
        ['An empty transaction takes', span(one('writ_database_commit_seconds')), 'writ_database_commit_seconds'],
        ['Changes waiting for one', figure(one('writ_commit_queue_drafts') ?? 0), 'writ_commit_queue_drafts'],
        ['Clock stepped by', span(one('writ_clock_step_seconds')), 'writ_clock_step_seconds'],
      ]} />
    </Card>
    <Card id="queue" name="Queue">
      <Values of={[
        ...['trusted', 'doubted'].flatMap(lane => [
          [`Waiting, ${lane} addresses`, figure(sum('writ_queue_waiting', { lane })), `writ_queue_waiting{lane="${lane}"}`],
          [`Judged now, ${lane} addresses`, figure(sum('writ_queue_judged', { lane })), `writ_queue_judged{lane="${lane}"}`],
        ] as Value[]),
        ['Streams of events', figure(one('writ_event_streams') ?? 0), 'writ_event_streams'],
        ['Attestation answered, median', quantile(merge(of('writ_appraisal_duration_seconds')), .5), 'writ_appraisal_duration_seconds'],
      ]} />
    </Card>
    <Card id="errors" name="Errors by kind">
      <Values of={[
        ['Requests answered with a problem', figure(sum('writ_http_problems_total')), 'writ_http_problems_total'],
        ['Refused: frozen or diverged', figure(one('writ_divergence_detected_total') ?? 0), 'writ_divergence_detected_total'],
        ['Panics', figure(one('writ_panics_total') ?? 0), 'writ_panics_total'],
      ]} />
      {sum('writ_http_problems_total') ? <Bars label="Problems, by kind" unit="answers" bars={kinds(of('writ_http_problems_total'))} />
        : <p class="soft">No request was answered with a problem since this verifier started.</p>}
    </Card>
    </div>
  </>
}

type Value = [label: ComponentChildren, value: string, metric: string]

function Card({ id, name, children }: { id: string; name: ComponentChildren; children: ComponentChildren }) {
  return <section id={id} class="card" aria-labelledby={`${id}-name`}><h2 id={`${id}-name`}>{name}</h2>{children}</section>
}

function Values({ of, across }: { of: Value[]; across?: boolean }) {
  return <dl class={across ? 'figures across checks' : 'figures'}>{of.map(([label, value, metric], i) => <div key={i}><dt>{label}<code>{metric}</code></dt><dd>{value}</dd></div>)}</dl>
}

interface Histogram { count: number; buckets: { most: number; count: number }[] }

function merge(samples: Sample[]): Histogram {
  const counts = new Map<number, number>()
  for (const s of samples) for (const b of s.buckets ?? []) counts.set(b.most, (counts.get(b.most) ?? 0) + b.count)
  return { count: samples.reduce((n, s) => n + (s.count ?? 0), 0), buckets: [...counts].map(([most, count]) => ({ most, count })).sort((a, b) => a.most - b.most) }
}

/** As Prometheus's histogram_quantile: a straight line between the bounds of the bucket. */
function quantile(h: Histogram, q: number) {
  if (!h.count) return '–'
  const rank = q * h.count
  let below = { most: 0, count: 0 }
  for (const b of h.buckets) {
    if (b.count >= rank) return span(below.most + (b.most - below.most) * (b.count > below.count ? (rank - below.count) / (b.count - below.count) : 1))
    below = b
  }
  return `more than ${span(below.most)}`
}

/** One bar for each bucket that anything is in, or that lies between such. */
function steps(h: Histogram): Bar[] {
  let before = 0
  const bars = h.buckets.map(b => { const value = b.count - before; before = b.count; return { name: `≤ ${span(b.most)}`, value } })
  if (h.count > before) bars.push({ name: `> ${span(h.buckets[h.buckets.length - 1]?.most)}`, value: h.count - before })
  const some = bars.map(b => b.value > 0)
  return bars.slice(some.indexOf(true), some.lastIndexOf(true) + 1)
}

function kinds(samples: Sample[]): Bar[] {
  const by = new Map<string, number>()
  for (const s of samples) by.set(s.labels.problem, (by.get(s.labels.problem) ?? 0) + s.value)
  return [...by].filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]).map(([name, value]) => ({ name, value, tone: name === 'internal' ? 'bad' as const : 'warn' as const }))
}

/** A time in seconds, in the unit that reads best. */
function span(s: number | undefined) {
  if (s === undefined) return '–'
  const n = Math.abs(s)
  if (n === 0) return '0 s'
  if (n < 1) return `${figure(Number((s * 1000).toPrecision(2)))} ms`
  if (n < 120) return `${figure(Number(s.toPrecision(2)))} s`
  return n < 7200 ? `${Math.round(s / 60)} min` : n < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`
}
