// node check.cjs wasm_exec.js core.wasm trust.json bundle...: what the core says of
// each bundle, as the page would ask it, as a JSON array on standard output.
const fs = require('fs')
globalThis.crypto ??= require('crypto').webcrypto // Node 18
require(process.argv[2])
const go = new Go()
WebAssembly.instantiate(fs.readFileSync(process.argv[3]), go.importObject).then(({ instance }) => {
  go.run(instance)
  const trust = fs.readFileSync(process.argv[4], 'utf8')
  const ask = (b, t, e) => JSON.parse(writCheck(b, t, e))
  const out = process.argv.slice(5).map(name => {
    const b = new Uint8Array(fs.readFileSync(name)), j = JSON.parse(fs.readFileSync(name, 'utf8'))
    const bytes = s => new Uint8Array(Buffer.from(s))
    if (!j.receipt) return { verdict: writVerdict(b) } // of a recorded machine
    return {
      verdict: writVerdict(b), trusted: ask(b, trust, ''), untrusted: ask(b, '', ''),
      receipt: ask(bytes(j.receipt), trust, Buffer.from(j.entry, 'base64url').toString()),
      token: ask(bytes(j.token || 'a.b.c'), trust, ''),
      wrong: ask(bytes('not a bundle'), trust, ''), broken: ask(b.subarray(1000), trust, ''),
    }
  })
  fs.writeSync(1, JSON.stringify({ most: writMost, out }))
  process.exit(0)
})
