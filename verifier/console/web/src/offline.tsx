import { render } from 'preact'
import './design.css'
import Proof from './pages/proof'
import { Frame } from './widgets'

/** /proof as one file: console/offline.go puts this, the style and the core into it. */
document.title = 'Check a proof · Writ'
render(<Frame page="proof" pages={[]}><Proof /></Frame>, document.getElementById('app')!)
