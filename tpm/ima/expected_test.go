package ima_test

import (
	"bytes"
	"crypto/sha1"
	"slices"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/ima"
)

// everything is the scan of a list by who expects every file there is: the replays,
// what was taken for expected, and the error.
func everything(b []byte) (sums [][]byte, expected []string, err error) {
	banks := []tpm.Alg{tpm.AlgSHA1, tpm.AlgSHA256, tpm.AlgSHA384}
	var replays []*ima.Replay
	for _, bank := range banks {
		replays = append(replays, ima.NewReplay(bank))
	}
	s := ima.Scan(b)
	s.Expect(func(template, path string, digest []byte) *ima.Hashes {
		h := ima.HashesOf(template, path, [32]byte(digest))
		return &h
	})
	for s.Next() {
		for _, r := range replays {
			r.Extend(s.Entry())
		}
		if s.Entry().Expected() {
			expected = append(expected, s.Entry().Path)
		}
	}
	for _, r := range replays {
		sums = append(sums, r.Sum())
	}
	return sums, expected, s.Err()
}

// TestExpectedReplaysTheSame: what was hashed before is what hashing it again gives,
// in every bank and for every list there is.
func TestExpectedReplaysTheSame(t *testing.T) {
	found := 0
	for _, boot := range boots(t) {
		b := read(t, "boots/"+boot+"/ima.bin")
		if len(b) == 0 {
			continue
		}
		sums, expected, err := everything(b)
		if err != nil {
			t.Fatalf("%s: %v", boot, err)
		}
		found += len(expected)
		l := parse(t, b)
		for i, bank := range []tpm.Alg{tpm.AlgSHA1, tpm.AlgSHA256, tpm.AlgSHA384} {
			if want := l.Replay(bank); !bytes.Equal(sums[i], want) {
				t.Errorf("%s, %v: replays to %x, expected %x", boot, bank, sums[i], want)
			}
		}
	}
	if found < 100 {
		t.Errorf("%d entries were expected ones: this tests nothing", found)
	}
}

// TestExpectedInDisguise: an entry that is not to the byte what the kernel writes of
// the expected file is none, and a changed one is refused as ever.
func TestExpectedInDisguise(t *testing.T) {
	plain := slices.Concat(field("sha256:\x00"+digest), field("/bin/a\x00"))
	for _, c := range []struct {
		name     string
		record   []byte
		expected bool
	}{
		{"ima-ng", record(10, "ima-ng", plain), true},
		{"ima-sig without a signature", record(10, "ima-sig", sig(digest, "/bin/a", "")), true},
		{"signed", record(10, "ima-sig", sig(digest, "/bin/a", "\x03\x02")), false},
		{"custom template", record(10, "d-ng|n", plain), false},
		{"a buffer", record(10, "ima-buf", sig(digest, "/bin/a", "")), false},
		{"verity", record(10, "ima-ngv2", slices.Concat(field("verity:sha256:\x00"+digest), field("/bin/a\x00"))), false},
		{"another hash of that size", record(10, "ima-ng", slices.Concat(field("sm3:\x00"+digest), field("/bin/a\x00"))), false},
		{"violation", violation("ima-ng", plain), false},
	} {
		sums, expected, err := everything(c.record)
		if err != nil || (len(expected) == 1) != c.expected {
			t.Errorf("%s: expected %v, %v", c.name, expected, err)
		}
		if want := parse(t, c.record).Replay(tpm.AlgSHA256); !bytes.Equal(sums[1], want) {
			t.Errorf("%s: replays to %x, expected %x", c.name, sums[1], want)
		}
	}
	good := record(10, "ima-ng", plain)
	for i := 4; i < 4+sha1.Size; i++ {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, _, err := everything(bad); err == nil {
			t.Errorf("template hash changed at byte %d: accepted", i-4)
		}
	}
}

// TestExpectedOfAnotherFile: whoever finds the hashes of another file changes nothing.
func TestExpectedOfAnotherFile(t *testing.T) {
	b := record(10, "ima-sig", sig(digest, "/bin/a", ""))
	for _, other := range []ima.Hashes{
		{},
		ima.HashesOf(ima.SignedTemplate, "/bin/a", [32]byte{}),
		ima.HashesOf(ima.SignedTemplate, "/bin/b", [32]byte([]byte(digest))),
		ima.HashesOf(ima.PlainTemplate, "/bin/a", [32]byte([]byte(digest))),
	} {
		s := ima.Scan(b)
		s.Expect(func(string, string, []byte) *ima.Hashes { return &other })
		if !s.Next() || s.Entry().Expected() {
			t.Errorf("taken for the expected file: %v", s.Err())
		}
	}
}
