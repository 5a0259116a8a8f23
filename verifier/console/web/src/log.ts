/** An entry of a log, as it is hashed, and the receipt that proves it. */
export interface Entry { receipt: string; entry: string }

/** What the verifier answers; throws its own words when it refuses, and says so when it is not there. */
async function get(path: string): Promise<Response> {
  let r: Response
  try { r = await fetch(path) } catch { throw new Error('The verifier does not answer. Try again, or paste the receipt itself.') }
  if (r.ok) return r
  const p = await r.json().catch(() => ({})) as { title?: string; detail?: string }
  throw new Error(`The verifier does not give ${path}: ${p.detail || p.title || r.status}`)
}

/** Path of an entry bundle (c2sp.org/tlog-tiles). */
export function tilePath(tile: number, width: number): string {
  let n = String(tile % 1000).padStart(3, '0')
  for (let rest = Math.floor(tile / 1000); rest; rest = Math.floor(rest / 1000)) n = `x${String(rest % 1000).padStart(3, '0')}/${n}`
  return `tile/entries/${n}${width < 256 ? `.p/${width}` : ''}`
}

/** Fetches an entry and its receipt from the log at base; the receipt says how large the log is. */
export async function fetchEntry(base: string, index: number): Promise<Entry> {
  const receipt = await (await get(`${base}/log/proof/${index}`)).text()
  const size = Number(receipt.split('\n\n')[1]?.split('\n')[1])
  const tile = Math.floor(index / 256)
  const raw = new DataView(await (await get(`${base}/log/${tilePath(tile, Math.min(256, size - tile * 256))}`)).arrayBuffer())
  let at = 0
  for (let skip = index % 256; skip; skip--) at += 2 + raw.getUint16(at)
  return { receipt, entry: new TextDecoder().decode(new Uint8Array(raw.buffer, at + 2, raw.getUint16(at))) }
}

/** An entry of a recognised domain's log, and the trust file of that domain that operators of this one have approved. */
export async function fetchPeer(domain: string, index: string): Promise<Entry & { trust: string }> {
  const e = await (await get(`/v1/public/lineage/entry?domain=${encodeURIComponent(domain)}&index=${index}`)).json() as Entry & { trust: unknown }
  return { ...e, trust: JSON.stringify(e.trust) }
}

/** An entry of the demonstration's own log, of which both histories are kept, and the trust file of its domain. */
export async function fetchDemo(id: string): Promise<Entry & { trust: string }> {
  const [entry, trust] = await Promise.all([get(`/demo/entries/${id}`), get('/demo/domain')])
  return { ...await entry.json() as Entry, trust: await trust.text() }
}
