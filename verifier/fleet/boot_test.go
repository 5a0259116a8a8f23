package fleet

import (
	"slices"
	"testing"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/appraisal"
)

func TestDifferencesOfBoots(t *testing.T) {
	c := func(pcr int, what, digest string) appraisal.Component {
		return appraisal.Component{PCR: pcr, Type: "EV_IPL", What: what, Digest: digest, Judgement: "allowed"}
	}
	was := []appraisal.Component{c(4, "shim", "aa"), c(4, "grub", "bb"), c(8, "linux", "cc"), c(8, "linux", "cc"), c(9, "initrd", "dd")}
	now := []appraisal.Component{c(4, "shim", "aa"), c(4, "grub", "b2"), c(8, "linux", "cc"), c(9, "module", "ee"), c(9, "initrd", "dd")}
	now[0].Event, now[0].Judgement = 7, "unknown" // where it stands and what was thought of it is no difference
	want := []Change{
		{Change: "changed", PCR: 4, Name: "EV_IPL: grub", Now: "b2", Was: "bb"},
		{Change: "came", PCR: 9, Name: "EV_IPL: module", Now: "ee"},
		{Change: "gone", PCR: 8, Name: "EV_IPL: linux", Was: "cc"},
	}
	if got := differences(was, now); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := differences(now, now); got != nil {
		t.Errorf("of the same boot: %+v", got)
	}
}

func TestFilesSinceTheBootBefore(t *testing.T) {
	was := files{order: []string{"/bin/a", "/bin/b"}, paths: map[string]string{"/bin/a": "1", "/bin/b": "2"}}
	now := files{order: []string{"/bin/c", "/bin/a"}, paths: map[string]string{"/bin/a": "3", "/bin/c": "4"}}
	want := []Change{
		{Change: "came", PCR: 10, Name: "/bin/c", Now: "4"},
		{Change: "changed", PCR: 10, Name: "/bin/a", Now: "3", Was: "1"},
		{Change: "gone", PCR: 10, Name: "/bin/b", Was: "2"},
	}
	if got := now.since(was); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestBootBefore: a decision is compared with the last one on the boot before its own.
func TestBootBefore(t *testing.T) {
	n := &verifier.Node{Boots: []verifier.BootSpan{{First: 10, Last: 19}, {First: 20, Last: 29}, {First: 30}}}
	for index, want := range map[uint64]uint64{35: 29, 30: 29, 29: 19, 20: 19, 19: 0, 10: 0, 5: 0} {
		if got, ok := before(n, index); got != want || ok != (want != 0) {
			t.Errorf("before %d is %d, want %d", index, got, want)
		}
	}
}
