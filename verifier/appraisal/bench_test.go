package appraisal_test

import (
	"testing"

	"github.com/writ-attestation/writ/verifier/appraisal"
)

// BenchmarkAppraise judges a recorded machine: "first" with its whole IMA list,
// "again" as a renewal that resumes behind the entries already judged.
func BenchmarkAppraise(b *testing.B) {
	first := recorded(b, "c-grub-sb")
	first.References.Set = learn(b, "c-grub-sb")
	v := appraisal.Appraise(first)
	if !v.Granted() {
		b.Fatalf("denied: %s", v.Marshal())
	}
	again := *first
	again.Memory = memory{}
	again.Prior.Boot = v.Next()
	again.Prior.Boot.Clock--
	for _, c := range []struct {
		name string
		in   *appraisal.Input
	}{{"first", first}, {"again", &again}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if v := appraisal.Appraise(c.in); !v.Granted() {
					b.Fatalf("denied: %s", v.Marshal())
				}
			}
		})
	}
}

type memory map[string]any

func (m memory) Recall(key string) any     { return m[key] }
func (m memory) Keep(key string, fact any) { m[key] = fact }
