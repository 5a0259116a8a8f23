package eventlog_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-attestation/attest"
	"github.com/google/go-eventlog/extract"
	state "github.com/google/go-eventlog/proto/state"
	"github.com/google/go-eventlog/tpmeventlog"
	"github.com/google/go-eventlog/wellknown"
	"github.com/google/go-tpm-tools/server"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
)

const differences = "../../docs/eventlog-differences.md"

// A difference is one row of the table but for its reason.
type difference struct{ log, peer, fact, theirs, ours string }

// TestExtractIsWhatPeersExtract compares with go-attestation, go-eventlog and
// go-tpm-tools on every recorded log, fact by fact. Each difference must be in
// docs/eventlog-differences.md with its reason, and nothing else may be.
func TestExtractIsWhatPeersExtract(t *testing.T) {
	var found []difference
	equal := 0
	logs := recorded(t)
	var windows struct{ Log struct{ Raw []byte } }
	readJSON(t, "logs/go-attestation/windows_gcp_shielded_vm.json", &windows)
	logs["logs/go-attestation/windows_gcp_shielded_vm.json"] = parse(t, windows.Log.Raw)
	// A ThinkPad's log, which is not ours to publish, has an event of a type its
	// maker invented in PCR 2.
	logs["made/vendor-event"] = parse(t, newBuilder(tpm.AlgSHA256).
		event(2, 0x8401, []byte("vendor"), []byte("label")).
		event(7, eventlog.VariableDriverConfig, variable("SecureBoot", []byte{0}), variable("SecureBoot", []byte{0})).
		event(2, eventlog.Separator, zeros, zeros).
		event(7, eventlog.Separator, zeros, zeros).b)
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		for _, c := range compare(logs[name]) {
			if c.log = name; c.theirs == c.ours {
				equal++
			} else {
				found = append(found, c)
			}
		}
	}
	if equal < 600 {
		t.Errorf("%d equal facts, expected 600 or more", equal)
	}
	t.Logf("%d equal facts, %d differences", equal, len(found))
	reasons := explained(t)
	for _, d := range found {
		if reasons[d] == "" {
			t.Errorf("not explained in %s:\n| %s | %s | %s | %s | %s | WHY |", differences, d.log, d.peer, d.fact, d.theirs, d.ours)
		}
		delete(reasons, d)
	}
	for d := range reasons {
		t.Errorf("explained in %s, but there is no such difference: %+v", differences, d)
	}
}

// explained reads the table's rows and their reasons.
func explained(t *testing.T) map[difference]string {
	b, err := os.ReadFile(filepath.FromSlash(differences))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[difference]string{}
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 6 || !strings.Contains(cells[0], "/") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows[difference{cells[0], cells[1], cells[2], cells[3], cells[4]}] = cells[5]
	}
	return rows
}

// compare lines up our facts with those of each peer, in the bank that a log
// can be replayed in.
func compare(l *eventlog.Log) (cs []difference) {
	alg := tpm.AlgSHA256
	values, err := l.Replay(alg)
	if err != nil || len(values) == 0 {
		alg = tpm.AlgSHA1
		if values, err = l.Replay(alg); err != nil || len(values) == 0 {
			return nil
		}
	}
	ours := ownFacts(l, l.Extract(alg))
	add := func(peer string, theirs map[string]string) {
		for _, fact := range slices.Sorted(maps.Keys(theirs)) {
			cs = append(cs, difference{peer: peer, fact: fact, theirs: theirs[fact], ours: ours[fact]})
		}
	}
	add("go-attestation", attestFacts(l.Marshal(), alg, values))
	firmware := firmwareState(l.Marshal(), alg, values)
	add("go-eventlog", firmware.facts)
	add("go-tpm-tools", firmware.machine())
	return cs
}

// digest makes a list short enough for a table: how many, and which.
func digest(items []string) string {
	if len(items) == 0 {
		return "0"
	}
	sum := sha256.Sum256([]byte(strings.Join(items, "\n")))
	return fmt.Sprintf("%d:%x", len(items), sum[:4])
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// ownFacts are our answers to what peers are asked.
func ownFacts(l *eventlog.Log, b *eventlog.Boot) map[string]string {
	f := map[string]string{"error": "none", "secure boot": "unknown", "version": "none", "dma protection": onOff(!b.DMAOff), "commands": "", "command line": "none"}
	sb := b.SecureBoot
	if sb.Known {
		f["secure boot"] = onOff(sb.Enabled)
	}
	for name, db := range map[string]*eventlog.Database{"PK": sb.PK, "KEK": sb.KEK, "db": sb.DB, "dbx": sb.DBX} {
		var certificates, hashes []string
		if db != nil {
			for _, c := range db.Certificates {
				certificates = append(certificates, c.Fingerprint.String())
			}
			for _, h := range db.Hashes {
				hashes = append(hashes, h.String())
			}
		}
		f[name+" certificates"], f[name+" hashes"] = digest(certificates), digest(hashes)
	}
	var early, late []string
	for _, a := range sb.Authorities {
		if a.Certificate == nil {
			continue
		}
		if fp := a.Certificate.Fingerprint.String(); a.Early {
			early = append(early, fp)
		} else {
			late = append(late, fp)
		}
	}
	f["authorities before the separator"], f["authorities"] = digest(early), digest(late)
	if b.Version != nil {
		f["version"] = hex.EncodeToString(l.Events[b.Version.Event].Data)
	}
	f["applications"], f["files"] = digest(sums(b.Applications, "")), digest(sums(b.Files, "EV_EVENT_TAG"))
	f["drivers"] = fmt.Sprint(len(b.Drivers))
	f["driver digests"] = digest(sums(b.Drivers, ""))
	var commands, lines []string
	for _, c := range b.Loader {
		if c.PCR == 8 {
			commands = append(commands, c.Text)
		}
	}
	f["commands"] = digest(commands)
	for _, c := range b.CommandLines {
		lines = append(lines, c.Text)
	}
	f["command line"] = strings.Join(lines, " AND ")
	return f
}

func sums(ms []eventlog.Measurement, but string) (out []string) {
	for _, m := range ms {
		if m.Type != but {
			out = append(out, m.Digest.String())
		}
	}
	return out
}

func short(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return "error: " + strings.ReplaceAll(s[:min(len(s), 90)], "|", "/")
}

// certificates of a peer, which skips those crypto/x509 cannot read.
func fingerprints(cs []x509.Certificate) (out []string) {
	for _, c := range cs {
		out = append(out, fmt.Sprintf("%x", sha256.Sum256(c.Raw)))
	}
	return out
}

func hexes(hs [][]byte) (out []string) {
	for _, h := range hs {
		out = append(out, hex.EncodeToString(h))
	}
	return out
}

func attestFacts(raw []byte, alg tpm.Alg, values map[int][]byte) map[string]string {
	s, err := attestState(raw, alg, values)
	if err != nil {
		return map[string]string{"error": short(err)}
	}
	f := attestStateFacts(s)
	f["drivers"] = fmt.Sprint(len(s.DriverLoadSourceHints))
	f["dma protection"] = onOff(!s.DMAProtectionDisabled)
	return f
}

func attestStateFacts(s *attest.SecurebootState) map[string]string {
	return map[string]string{
		"error": "none", "secure boot": onOff(s.Enabled),
		"PK certificates": digest(fingerprints(s.PlatformKeys)), "PK hashes": digest(hexes(s.PlatformKeyHashes)),
		"KEK certificates": digest(fingerprints(s.ExchangeKeys)), "KEK hashes": digest(hexes(s.ExchangeKeyHashes)),
		"db certificates": digest(fingerprints(s.PermittedKeys)), "db hashes": digest(hexes(s.PermittedHashes)),
		"dbx certificates": digest(fingerprints(s.ForbiddenKeys)), "dbx hashes": digest(hexes(s.ForbiddenHashes)),
		"authorities":                      digest(fingerprints(s.PostSeparatorAuthority)),
		"authorities before the separator": digest(fingerprints(s.PreSeparatorAuthority)),
	}
}

// A firmware is what go-eventlog makes of a log, which may be in part, or a
// panic.
type firmware struct {
	state *state.FirmwareLogState
	err   error
	facts map[string]string
}

func firmwareState(raw []byte, alg tpm.Alg, values map[int][]byte) (f firmware) {
	func() {
		defer func() {
			if p := recover(); p != nil {
				f.err = fmt.Errorf("PANIC: %v", p)
			}
		}()
		// As VerifyAttestation is called for a machine whose loader is GRUB.
		f.state, f.err = tpmeventlog.ReplayAndExtract(raw, bank(alg, values), extract.Opts{Loader: extract.GRUB})
	}()
	f.facts = map[string]string{"error": "none"}
	if f.err != nil {
		f.facts["error"] = short(f.err)
	}
	s := f.state
	if p := s.GetPlatform(); p != nil {
		f.facts["version"] = hex.EncodeToString(p.GetScrtmVersionId())
		if v := p.GetGceVersion(); v != 0 {
			f.facts["version"] = hex.EncodeToString(wellknown.ConvertGCEFirmwareVersionToSCRTMVersion(v))
		}
	}
	if sb := s.GetSecureBoot(); sb != nil {
		f.facts["secure boot"] = onOff(sb.GetEnabled())
		for name, db := range map[string]*state.Database{"PK": sb.GetPk(), "KEK": sb.GetKek(), "db": sb.GetDb(), "dbx": sb.GetDbx()} {
			f.facts[name+" certificates"], f.facts[name+" hashes"] = digest(databaseCertificates(db)), digest(hexes(db.GetHashes()))
		}
		f.facts["authorities"] = digest(databaseCertificates(sb.GetAuthority()))
	}
	if efi := s.GetEfi(); efi != nil {
		f.facts["applications"] = digest(apps(efi.GetApps()))
		f.facts["driver digests"] = digest(append(apps(efi.GetBootServicesDrivers()), apps(efi.GetRuntimeServicesDrivers())...))
	}
	if grub := s.GetGrub(); grub != nil {
		f.facts["commands"] = digest(grubCommands(grub.GetCommands()))
		var files []string
		for _, g := range grub.GetFiles() {
			files = append(files, hex.EncodeToString(g.GetDigest()))
		}
		f.facts["files"] = digest(files)
		f.facts["command line"] = strings.TrimRight(s.GetLinuxKernel().GetCommandLine(), "\x00")
	}
	return f
}

// machine is what go-tpm-tools passes on of it: all or nothing.
func (f firmware) machine() map[string]string {
	if f.err != nil {
		return map[string]string{"error": f.facts["error"]}
	}
	m, err := server.ConvertToMachineState(f.state)
	if err != nil {
		return map[string]string{"error": short(err)}
	}
	out := map[string]string{"error": "none", "secure boot": onOff(m.GetSecureBoot().GetEnabled())}
	out["commands"] = digest(grubCommands(m.GetGrub().GetCommands()))
	out["command line"] = strings.TrimRight(m.GetLinuxKernel().GetCommandLine(), "\x00")
	out["db hashes"], out["dbx hashes"] = digest(hexes(m.GetSecureBoot().GetDb().GetHashes())), digest(hexes(m.GetSecureBoot().GetDbx().GetHashes()))
	var programs []string
	for _, a := range m.GetEfi().GetApps() {
		programs = append(programs, hex.EncodeToString(a.GetDigest()))
	}
	out["applications"] = digest(programs)
	return out
}

func apps(as []*state.EfiApp) (out []string) {
	for _, a := range as {
		out = append(out, hex.EncodeToString(a.GetDigest()))
	}
	return out
}

// grubCommands drops GRUB's labels, which go-eventlog keeps.
func grubCommands(cs []string) (out []string) {
	for _, c := range cs {
		for _, label := range []string{"grub_cmd: ", "kernel_cmdline: ", "module_cmdline: ", "grub_kernel_cmdline ", "grub_cmd "} {
			if rest, ok := strings.CutPrefix(c, label); ok {
				c = rest
				break
			}
		}
		out = append(out, strings.TrimRight(c, "\x00"))
	}
	return out
}

func databaseCertificates(db *state.Database) (out []string) {
	known := map[state.WellKnownCertificate][]byte{
		state.WellKnownCertificate_MS_WINDOWS_PROD_PCA_2011:    wellknown.WindowsProductionPCA2011Cert,
		state.WellKnownCertificate_MS_THIRD_PARTY_UEFI_CA_2011: wellknown.MicrosoftUEFICA2011Cert,
		state.WellKnownCertificate_MS_THIRD_PARTY_KEK_CA_2011:  wellknown.MicrosoftKEKCA2011Cert,
		state.WellKnownCertificate_GCE_DEFAULT_PK:              wellknown.GceDefaultPKCert,
	}
	for _, c := range db.GetCerts() {
		der := c.GetDer()
		if len(der) == 0 {
			der = known[c.GetWellKnown()]
		}
		out = append(out, fmt.Sprintf("%x", sha256.Sum256(bytes.TrimSpace(der))))
	}
	return out
}
