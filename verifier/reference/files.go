package reference

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/ima"
)

// SignedFiles is what [IMA.Signed] says when a listed key's signature allows a
// file. Anything else and signatures count for nothing.
const SignedFiles = "allow"

// Bounds of a set's IMA section; files are bounded by [MaxSize].
const (
	maxKeys     = 64
	maxExcludes = 64
	maxPattern  = 256
	maxBuffers  = 4096
)

// Dated is a digest that is allowed for a time, so that a package's old and new
// files stand side by side while machines are updated. Seconds since 1970; 0 is
// no limit.
type Dated struct {
	Digest    string `json:"digest"` // as in [File.Allow]
	NotBefore int64  `json:"not_before,omitempty"`
	NotAfter  int64  `json:"not_after,omitempty"` // the first second it is not allowed any more
}

func (d *Dated) holds(at int64) bool {
	return at >= d.NotBefore && (d.NotAfter == 0 || at < d.NotAfter)
}

// Exclude leaves the files of a path unjudged unless their digest is denied or
// vulnerable. IMA does not say whether a file was run or only read, so a list
// in which one was used affirms executables at 3 at most: what booted, not what
// runs. Where programs live it must be asked for with Executables besides.
type Exclude struct {
	Pattern     string `json:"pattern"` // absolute; * and ? within a name, a last /** for all below
	Why         string `json:"why"`
	Executables bool   `json:"executables,omitempty"`
}

// dataDirs are where files are kept that are not meant to be run.
var dataDirs = []string{"etc", "proc", "run", "sys", "var"}

// Matches reports whether the pattern covers a path.
func (x *Exclude) Matches(name string) bool {
	pattern, below := strings.CutSuffix(x.Pattern, "/**")
	if below {
		n := strings.Count(pattern, "/")
		for i, c := range []byte(name) { // the directory as deep as the pattern
			if c != '/' {
				continue
			}
			if n--; n < 0 {
				name = name[:i]
				break
			}
		}
		if n >= 0 {
			return false
		}
	}
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

func (x *Exclude) check() error {
	if len(x.Pattern) > maxPattern || path.Clean(x.Pattern) != x.Pattern || !strings.HasPrefix(x.Pattern, "/") {
		return fmt.Errorf("expected a clean absolute path of at most %d bytes", maxPattern)
	}
	if _, err := path.Match(x.Pattern, ""); err != nil {
		return err
	}
	first, _, deeper := strings.Cut(x.Pattern[1:], "/")
	if !deeper || strings.ContainsAny(first, `*?[\`) {
		return errors.New("it must begin with a directory's name in full")
	}
	if strings.Contains(strings.TrimSuffix(x.Pattern, "/**"), "**") {
		return errors.New("** stands at the end only")
	}
	if x.Why == "" {
		return errors.New("say why")
	}
	if !x.Executables && !slices.Contains(dataDirs, first) {
		return fmt.Errorf(`programs may live in /%s: set "executables" if they are to go unjudged`, first)
	}
	return nil
}

// indexIMA checks the section and builds its look-ups.
func (s *Set) indexIMA(m *IMA) error {
	if m.Signed != "" && m.Signed != SignedFiles {
		return fmt.Errorf("signed: %.20q, expected %q or nothing", m.Signed, SignedFiles)
	}
	if len(m.Keys) > maxKeys || len(m.Exclude) > maxExcludes || len(m.Buffers) > maxBuffers {
		return fmt.Errorf("at most %d keys, %d exclusions and %d buffers are allowed", maxKeys, maxExcludes, maxBuffers)
	}
	if err := m.checkLists(); err != nil {
		return err
	}
	for i, text := range m.Keys {
		k, err := ima.ParseKey(text)
		if err != nil {
			return fmt.Errorf("key %d: %w", i, err)
		}
		s.keys = append(s.keys, k)
	}
	for i := range m.Exclude {
		if err := m.Exclude[i].check(); err != nil {
			return fmt.Errorf("exclusion %.80q: %w", m.Exclude[i].Pattern, err)
		}
	}
	for _, f := range m.Buffers {
		if strings.HasPrefix(f.Path, "/") {
			return fmt.Errorf("buffer %.80q is named like a file", f.Path)
		}
	}
	if err := s.indexFiles("buffer", m.Buffers, s.buffers); err != nil {
		return err
	}
	return s.indexFiles("file", m.Files, s.files)
}

func (s *Set) indexFiles(what string, files []File, index map[string]*File) error {
	for i := range files {
		f := &files[i]
		if i > 0 && f.Path <= files[i-1].Path {
			return fmt.Errorf("IMA %s %.80q is out of order", what, f.Path)
		}
		if err := s.indexFile(f); err != nil {
			return fmt.Errorf("IMA %s %.80q: %w", what, f.Path, err)
		}
		index[f.Path] = f
	}
	return nil
}

// digests are all that the file's lists name.
func (f *File) digests() []string {
	all := slices.Concat(f.Allow, f.Vulnerable, f.Deny)
	for _, d := range f.Valid {
		all = append(all, d.Digest)
	}
	return all
}

// fileDigest splits "sha256:..." and "verity:sha256:...", in the one form that
// is ever compared.
func fileDigest(d string) (sum string, ok bool) {
	d = strings.TrimPrefix(d, "verity:")
	name, sum, _ := strings.Cut(d, ":")
	alg, err := tpm.ParseAlg(name)
	return sum, err == nil && alg.String() == name && isHex(sum, alg.Size())
}

// at judges a digest by the file's own lists. until is the end of the last
// window that allows it, 0 where no window is needed.
func (f *File) at(digest []byte, at int64) (j Judgement, until int64) {
	in := func(d string) bool { return d == string(digest) } // compares in place
	switch {
	case slices.ContainsFunc(f.Deny, in):
		return Denied, 0
	case slices.ContainsFunc(f.Vulnerable, in):
		return Weak, 0
	case slices.ContainsFunc(f.Allow, in):
		return Allowed, 0
	}
	for i := range f.Valid {
		d := &f.Valid[i]
		if d.Digest != string(digest) || !d.holds(at) {
			continue
		}
		if d.NotAfter == 0 {
			return Allowed, 0
		}
		j, until = Allowed, max(until, d.NotAfter)
	}
	return j, until
}

// BufferTemplate marks entries that are not of files. No hash covers the name of
// a template, so an entry can be dressed up as one of another kind: that a
// buffer hashes to its entry's digest is what makes it one.
const BufferTemplate = "ima-buf"

// DigestOf names an entry's digest as [File.Allow] does.
func DigestOf(e *ima.Entry) string { return string(AppendDigest(nil, e)) }

// AppendDigest appends what DigestOf returns.
func AppendDigest(b []byte, e *ima.Entry) []byte {
	if e.DigestType == "verity" {
		b = append(b, "verity:"...)
	}
	b = append(append(b, e.FileAlg.String()...), ':')
	return hex.AppendEncode(b, e.FileDigest)
}

// FileAt judges a measured file at a second. digest is as in [File.Allow]; until
// is the end of the window that the judgement rests on, 0 for none.
func (s *Set) FileAt(path string, digest []byte, at int64) (j Judgement, until int64) {
	return s.at(s.files[path], digest, at)
}

// AllowedAt returns the digests that the set allows under a path at all times.
func (s *Set) AllowedAt(path string) []string {
	if f := s.files[path]; f != nil {
		return f.Allow
	}
	return nil
}

// BufferAt judges a buffer that the kernel measured, such as a key it loaded:
// name is the kernel's ("kexec-cmdline", ".ima").
func (s *Set) BufferAt(name string, digest []byte, at int64) (j Judgement, until int64) {
	return s.at(s.buffers[name], digest, at)
}

func (s *Set) at(f *File, digest []byte, at int64) (j Judgement, until int64) {
	if f != nil {
		j, until = f.at(digest, at)
	}
	if everywhere := s.lists[string(digest[bytes.LastIndexByte(digest, ':')+1:])]; everywhere > j {
		return everywhere, 0
	}
	return j, until
}

// Excluded returns the exclusion that covers a path, nil for none.
func (s *Set) Excluded(path string) *Exclude {
	if s.IMA == nil {
		return nil
	}
	for i := range s.IMA.Exclude {
		if x := &s.IMA.Exclude[i]; x.Matches(path) {
			return x
		}
	}
	return nil
}

// SignedBy reports whether the set lets signatures allow files and one of its
// keys made this one over the digest.
func (s *Set) SignedBy(signature []byte, alg tpm.Alg, digest []byte) bool {
	if s.IMA == nil || s.IMA.Signed != SignedFiles || len(signature) == 0 {
		return false
	}
	sig, err := ima.ParseSignature(signature)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(s.keys, func(k *ima.Key) bool {
		return slices.Contains(k.IDs, sig.KeyID) && sig.Verify(k.Public, alg, digest)
	})
}
