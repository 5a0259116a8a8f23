package eventlog

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// SecureBoot is what PCR 7 proves about UEFI Secure Boot. PK, KEK, DB and DBX
// are nil unless firmware measured the variable exactly once before the
// separator of PCR 7.
type SecureBoot struct {
	Known   bool      `json:"known"`
	Enabled bool      `json:"enabled"`         // only if Known
	Event   int       `json:"event,omitempty"` // index of the event that says so, if Known
	PK      *Database `json:"pk,omitempty"`
	KEK     *Database `json:"kek,omitempty"`
	DB      *Database `json:"db,omitempty"`
	DBX     *Database `json:"dbx,omitempty"`
	// Authorities are what allowed programs to run. Firmware and shim measure
	// them after the separator (those that are not Early), where whoever runs
	// later can add to them: require all to be known, not one to be there.
	Authorities []Authority `json:"authorities,omitempty"`
	SbatLevel   *Text       `json:"sbat_level,omitempty"` // shim's revocations, the first measured
}

// A Database is the contents of PK, KEK, db or dbx.
type Database struct {
	Place
	Certificates []Certificate `json:"certificates,omitempty"`
	Hashes       []Hex         `json:"hashes,omitempty"` // SHA-256, Authenticode digests of programs
	Others       int           `json:"others,omitempty"` // signatures of kinds this package does not read
}

// A Certificate is one of a database, by the SHA-256 of its DER bytes.
type Certificate struct {
	Fingerprint Hex    `json:"fingerprint"`
	Subject     string `json:"subject,omitempty"` // as RFC 4514 writes it; "" if the bytes are no certificate
	Owner       string `json:"owner,omitempty"`   // GUID of who put it there; "" if the log has none
}

// An Authority is a database entry that allowed a program.
type Authority struct {
	Place
	Variable    string       `json:"variable"` // "db", "Shim", "MokListRT", "vendor_db"
	Certificate *Certificate `json:"certificate,omitempty"`
	Hash        Hex          `json:"hash,omitempty"` // of a program allowed by its digest
}

// GUIDs of UEFI 2.10, 32.4.1 and 32.6.1, and shim's.
const (
	securityDatabase = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
	shimLock         = "605dab50-e046-4300-abb6-3dd810dd8b23"
)

// policies are the variables that make up the Secure Boot policy (PFP 3.3.4.8).
var policies = [...]struct{ name, guid string }{
	{"SecureBoot", GlobalVariable}, {"PK", GlobalVariable}, {"KEK", GlobalVariable}, {"db", securityDatabase}, {"dbx", securityDatabase},
}

// found is a policy variable, kept until it is known to be the only one.
type found struct {
	fact  fact
	value variable
	db    Database
}

// policy: what PCR 7 says about Secure Boot. A "db" may be the database or the
// entry of it that was used; they are told apart by their contents.
func (x *extraction) policy(f fact) bool {
	if !f.whole {
		return false
	}
	v, ok := parseVariable(f.Data)
	if !ok || v.more != 0 {
		return false
	}
	if f.place.Early {
		for i, p := range policies {
			if p.name != v.name || p.guid != v.guid {
				continue
			}
			db := Database{Place: f.place}
			if i > 0 && !db.parse(v.data) {
				break
			}
			x.names[i]++
			if x.names[i] > 1 {
				return x.variable(f)
			}
			x.found[i] = found{f, v, db}
			return true
		}
	}
	if v.name == "SbatLevel" && v.guid == shimLock {
		if text := decodeText(v.data); x.boot.SecureBoot.SbatLevel == nil && printable(text) {
			x.boot.SecureBoot.SbatLevel = &Text{Place: f.place, Text: text}
			return true
		}
		return false
	}
	a, ok := parseAuthority(v)
	if ok {
		a.Place = f.place
		x.boot.SecureBoot.Authorities = append(x.boot.SecureBoot.Authorities, a)
	}
	return ok
}

// settle takes the policy variables that were measured once. Two of one name
// are two stories, and neither is told.
func (x *extraction) settle() {
	sb := &x.boot.SecureBoot
	for i, target := range [...]**Database{nil, &sb.PK, &sb.KEK, &sb.DB, &sb.DBX} {
		c := &x.found[i]
		switch {
		case x.names[i] == 0:
		case x.names[i] > 1:
			x.variable(c.fact)
		case target != nil:
			*target = &c.db
		case len(c.value.data) == 1 && c.value.data[0] <= 1:
			sb.Known, sb.Enabled, sb.Event = true, c.value.data[0] == 1, c.fact.Index
		default:
			x.variable(c.fact)
		}
	}
	slices.SortFunc(x.boot.Variables, func(a, b Variable) int { return a.Event - b.Event })
}

// Kinds of EFI_SIGNATURE_LIST (UEFI 2.10, 32.4.1), as their GUIDs are in memory.
var (
	kindX509   = [16]byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	kindSHA256 = [16]byte{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28}
)

const (
	listHeader = 28 // bytes of an EFI_SIGNATURE_LIST before its own header
	ownerSize  = 16
)

// parse reads lists of type GUID, list size u32, header size u32, signature size
// u32, header, signatures of owner GUID and contents, to the last byte.
func (db *Database) parse(b []byte) bool {
	for len(b) > 0 {
		if len(b) < listHeader {
			return false
		}
		kind := [16]byte(b)
		size, header, each := uint64(binary.LittleEndian.Uint32(b[16:])), uint64(binary.LittleEndian.Uint32(b[20:])), uint64(binary.LittleEndian.Uint32(b[24:]))
		if size > uint64(len(b)) || size < listHeader+header || each <= ownerSize || (size-listHeader-header)%each != 0 {
			return false
		}
		if kind == kindSHA256 && each != ownerSize+sha256.Size {
			return false
		}
		db.add(kind, b[listHeader+header:size], int(each))
		b = b[size:]
	}
	return true
}

func (db *Database) add(kind [16]byte, entries []byte, each int) {
	switch kind {
	case kindX509:
		for ; len(entries) > 0; entries = entries[each:] {
			db.Certificates = append(db.Certificates, newCertificate(entries[ownerSize:each], guid(entries)))
		}
	case kindSHA256:
		if db.Hashes == nil {
			db.Hashes = make([]Hex, 0, len(entries)/each)
		}
		for ; len(entries) > 0; entries = entries[each:] {
			db.Hashes = append(db.Hashes, Hex(entries[ownerSize:each:each]))
		}
	default:
		db.Others += len(entries) / each
	}
}

// parseAuthority reads the EFI_SIGNATURE_DATA that was used (PFP 10.4.2.1, note
// on EV_EFI_VARIABLE_AUTHORITY): owner GUID and certificate or digest. Old shims
// leave the owner out.
func parseAuthority(v variable) (Authority, bool) {
	a := Authority{Variable: v.name}
	switch d := v.data; {
	case isElement(d):
		c := newCertificate(d, "")
		a.Certificate = &c
	case len(d) > ownerSize && isElement(d[ownerSize:]):
		c := newCertificate(d[ownerSize:], guid(d))
		a.Certificate = &c
	case len(d) == ownerSize+sha256.Size:
		a.Hash = Hex(d[ownerSize:])
	default:
		return a, false
	}
	return a, true
}

func newCertificate(der []byte, owner string) Certificate {
	sum := sha256.Sum256(der)
	return Certificate{Hex(sum[:]), subject(der), owner}
}
