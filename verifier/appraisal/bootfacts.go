package appraisal

import (
	"slices"
	"strings"

	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/verifier/rules"
)

// bootFacts is what rules may know of a boot: the proven facts of proven PCRs.
func (r *run) bootFacts() rules.Boot {
	b := r.extracted()
	p := func(pl eventlog.Place) bool { return r.proven(pl.PCR) }
	out := rules.Boot{
		Exited: b.Exited && r.proven(5), DMAOff: b.DMAOff && r.proven(7), Debugger: b.Debugger && r.proven(7),
		Firmware: r.digests(b.Firmware), Drivers: r.digests(b.Drivers), Applications: r.digests(b.Applications),
		MOK: r.digests(b.MOK), Files: r.digests(b.Files), Other: r.digests(b.Other),
		Actions: r.texts(b.Actions), Commands: r.texts(b.Loader), CommandLines: r.texts(b.CommandLines),
	}
	if r.proven(0) {
		out.Locality = int64(b.Locality)
	}
	if b.Version != nil && p(b.Version.Place) {
		out.FirmwareVersion = b.Version.Text
	}
	if r.proven(7) {
		secureBootFacts(&b.SecureBoot, &out)
	}
	for _, v := range b.Variables {
		if p(v.Place) {
			f := rules.Variable{PCR: int64(v.PCR), Value: v.Value.String()}
			if v.Named {
				f.Name, f.GUID = v.Name, v.GUID
			}
			out.Variables = append(out.Variables, f)
		}
	}
	for _, d := range b.Disks {
		if p(d.Place) {
			f := rules.Disk{GUID: d.GUID}
			for _, part := range d.Partitions {
				f.Partitions = append(f.Partitions, part.GUID)
			}
			out.Disks = append(out.Disks, f)
		}
	}
	for _, s := range b.Sections {
		if p(s.Place) {
			out.Sections = append(out.Sections, rules.Section{Name: s.Name, Digest: s.Digest.String()})
		}
	}
	for _, m := range b.Separators {
		if p(m.Place) && !m.Error {
			out.Separators = append(out.Separators, int64(m.PCR))
		}
	}
	return out
}

// basis names the members of boot that rest on each set of PCRs.
var basis = []struct {
	pcrs    []int
	members []string
}{
	{[]int{0}, []string{"firmware_version", "locality", "firmware"}},
	{[]int{2}, []string{"drivers"}},
	{[]int{4}, []string{"applications"}},
	{[]int{5}, []string{"exited", "disks"}},
	{[]int{7}, []string{"dma_protection_off", "debugger", "pk", "kek", "db", "dbx", "authorities", "sbat_level"}},
	{[]int{8, 12}, []string{"commands", "command_lines"}},
	{[]int{9}, []string{"files"}},
	{[]int{11}, []string{"sections"}},
	{[]int{14}, []string{"mok"}},
	{[]int{1, 3, 5, 6, 7}, []string{"variables"}},
	{[]int{1, 2, 3, 4, 5, 6, 7}, []string{"actions"}},
	{[]int{0, 1, 2, 3, 4, 5, 6, 7}, []string{"separators"}},
	{[]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15}, []string{"other"}},
}

// unproven are the members of boot that the quote proves nothing about.
func (r *run) unproven() []string {
	var out []string
	for _, b := range basis {
		if slices.ContainsFunc(b.pcrs, func(p int) bool { return !r.proven(p) }) {
			out = append(out, b.members...)
		}
	}
	return out
}

func secureBootFacts(s *eventlog.SecureBoot, out *rules.Boot) {
	out.PK, out.KEK, out.DB, out.DBX = database(s.PK), database(s.KEK), database(s.DB), database(s.DBX)
	for _, a := range s.Authorities {
		if a.Certificate != nil {
			out.Authorities = append(out.Authorities, a.Certificate.Fingerprint.String())
		} else {
			out.Authorities = append(out.Authorities, a.Hash.String())
		}
	}
	if s.SbatLevel != nil {
		out.SBAT = strings.TrimRight(s.SbatLevel.Text, "\n")
	}
}

// database is the certificates of a key database by digest, then the programs.
func database(d *eventlog.Database) (out []string) {
	if d == nil {
		return nil
	}
	for _, c := range d.Certificates {
		out = append(out, c.Fingerprint.String())
	}
	for _, h := range d.Hashes {
		out = append(out, h.String())
	}
	return out
}

func (r *run) digests(list []eventlog.Measurement) (out []rules.Measurement) {
	for _, m := range list {
		if r.proven(m.PCR) {
			out = append(out, rules.Measurement{Event: int64(m.Event), PCR: int64(m.PCR), Early: m.Early, Digest: m.Digest.String()})
		}
	}
	return out
}

func (r *run) texts(list []eventlog.Text) (out []string) {
	for _, t := range list {
		if r.proven(t.PCR) {
			out = append(out, t.Text)
		}
	}
	return out
}
