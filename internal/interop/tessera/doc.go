// Package tessera measures Tessera, the library that Certificate Transparency
// logs are moving to, at the work that Writ's ledger does.
package tessera
