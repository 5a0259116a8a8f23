package appraisal

// BootMembers are the members of boot that rules may speak of.
func BootMembers() (out []string) {
	for _, b := range basis {
		out = append(out, b.members...)
	}
	return out
}
