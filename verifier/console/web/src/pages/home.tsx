/** What each page answers, in the order in which somebody new would ask. */
const surfaces: Record<string, [name: string, what: string]> = {
  demo: ['Demonstration', 'Start a node and its job, do harm to them, and watch the job stop: how fast, and the entries that prove it.'],
  console: ['Console', 'The domain at a glance: its nodes and their states, the references in force, what was found, and by which event.'],
  lineage: ['Lineage', 'The life of an execution: who let it run, on what evidence, what it started, and how it ended.'],
  health: ['Health', 'Whether the verifier and its log are well, each figure under the name that Prometheus has for it.'],
  proof: ['Proof', 'Check a token, a bundle or an entry of the log in your own browser, with keys that you bring.'],
}
const open = document.getElementById('app')!.dataset.pages!.split(' ')

/** The root: which pages are open here. */
export default function Home() {
  return <>
    <h1>Work runs only while its machine is proven</h1>
    <p class="soft">This verifier judges what machines prove of themselves, lets work run on those that hold, and keeps a signed log of all that it decides. These pages show what it says, and how to check it.</p>
    <ul class="doors">{Object.entries(surfaces).filter(([page]) => open.includes(page)).map(([page, [name, what]]) => <li key={page}>
      <h2><a href={`/${page}`}>{name}</a></h2><p>{what}</p>
    </li>)}</ul>
  </>
}
