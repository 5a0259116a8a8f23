import { render, type ComponentType } from 'preact'
import './design.css'
import { Frame, Trouble } from './widgets'

/** Every page: its view is loaded when it is opened. */
const pages: Record<string, () => Promise<{ default: ComponentType }>> = {
  '': () => import('./pages/home'),
  demo: () => import('./pages/demo'),
  health: () => import('./pages/health'),
  console: () => import('./pages/console'),
  lineage: () => import('./pages/lineage'),
  proof: () => import('./pages/proof'),
}

const page = location.pathname.slice(1)
const root = document.getElementById('app')!
const open = root.dataset.pages!.split(' ') // filled in by the server: what is open there
const show = (View: ComponentType) => render(<Frame page={page} pages={open}><View /></Frame>, root)
document.title = page ? `${page} · Writ` : 'Writ'
Promise.resolve(pages[page]?.() ?? Promise.reject(new Error(`there is no page ${page}`))).then(
  m => show(m.default),
  (e: unknown) => show(() => <Trouble>This page could not be loaded ({String(e)}). Load it again.</Trouble>),
)
