package reference

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
)

// ImportEvents makes a set of the events in the YAML that tpm2_eventlog prints
// (tpm2-tools 5, with SHA-256 digests). The YAML proves nothing: read the set
// before it is signed. It names no TPM vendor and judges no files, so it denies
// until those are filled in.
func ImportEvents(name string, yaml []byte) (*Set, []Note, error) {
	if len(yaml) > MaxSize {
		return nil, nil, fmt.Errorf("reading events: %d bytes, at most %d are allowed", len(yaml), MaxSize)
	}
	if !utf8.Valid(yaml) {
		return nil, nil, errors.New("reading events: not UTF-8; print them again with tpm2_eventlog")
	}
	events, err := readEvents(yaml)
	if err != nil {
		return nil, nil, fmt.Errorf("reading events: %w", err)
	}
	s := &Set{V: 1, Name: name, Generation: 1, Bank: tpm.AlgSHA256.String(), SecureBoot: "required", TPM: TPM{Vendors: []string{}},
		Required: []string{InstanceIdentity, Configuration, Executables, Hardware}}
	var notes []Note
	for p := range 16 {
		rule := PCR{PCR: p, Rule: Match}
		for _, e := range events {
			if e.pcr == p {
				rule.Events = append(rule.Events, Event{Label: e.label, Allow: []string{e.digest}})
			}
		}
		why, mine := perMachine[p]
		if p == imaPCR {
			why, mine = "files are not judged", true
		}
		if mine {
			rule = PCR{PCR: p, Rule: Ignore, Why: why}
			notes = append(notes, Note{PCR: p, Text: "ignored: " + why})
		}
		s.PCRs = append(s.PCRs, rule)
	}
	notes = append(notes, Note{PCR: 7, Question: true, Text: "which TPM vendors are accepted? None is until tpm.vendors says so"})
	return s, notes, s.Check()
}

type importedEvent struct {
	pcr           int
	label, digest string
}

// readEvents reads the few lines of the YAML that matter: a scanner of its fixed
// form, which refuses what it does not know rather than guess. Keys of events
// stand two spaces in, those of a digest four; what firmware wrote is deeper or
// quoted.
func readEvents(yaml []byte) ([]importedEvent, error) {
	var out []importedEvent
	var e importedEvent
	var alg string
	var inDigests, measured bool
	finish := func() error {
		switch {
		case !measured:
			return nil
		case e.digest == "":
			return fmt.Errorf("event %d (%s) has no SHA-256 digest", len(out)+1, e.label)
		case e.pcr < 0 || e.pcr > 23:
			return fmt.Errorf("event %d is of PCR %d", len(out)+1, e.pcr)
		}
		out = append(out, e)
		return nil
	}
	scan := bufio.NewScanner(bytes.NewReader(yaml))
	scan.Buffer(nil, 4<<20) // an event's data is one line
	for n := 1; scan.Scan(); n++ {
		line := strings.TrimRight(scan.Text(), " \r")
		key, value, _ := strings.Cut(line, ":")
		value = strings.Trim(strings.TrimSpace(value), `"`)
		var err error
		switch {
		case strings.HasPrefix(line, "- EventNum:"):
			err = finish()
			e, measured, inDigests = importedEvent{pcr: -1}, false, false
		case key == "  PCRIndex":
			e.pcr, err = strconv.Atoi(value)
		case key == "  EventType":
			e.label, measured = value, value != eventlog.NoAction.String()
		case key == "  Digests":
			inDigests = true
		case key == "  - AlgorithmId" && inDigests:
			alg = value
		case key == "    Digest" && inDigests && alg == tpm.AlgSHA256.String():
			if e.digest != "" || !isHex(value, 32) {
				err = fmt.Errorf("%.80q is not one SHA-256 digest", value)
			}
			e.digest = value
		case strings.HasPrefix(line, "pcrs:"):
			inDigests = false
		case strings.HasPrefix(line, "  ") && !strings.HasPrefix(line, "   ") && !strings.HasPrefix(line, "  -"):
			inDigests = false // the next key of the event
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := scan.Err(); err != nil {
		return nil, err
	}
	if err := finish(); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no event: expected the output of tpm2_eventlog")
	}
	return slices.Clip(out), nil
}
