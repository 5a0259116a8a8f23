package nri

import (
	"fmt"
	"path"
	"strings"
)

// groupPath is the path of a container's cgroup from what its OCI configuration says
// (linux.cgroupsPath): an absolute path, or "slice:prefix:name" where systemd makes the
// cgroups, as runc and crun read it.
func groupPath(s string) (string, error) {
	if strings.HasPrefix(s, "/") {
		return s, nil
	}
	f := strings.Split(s, ":")
	if len(f) != 3 || f[1] == "" || f[2] == "" || strings.Contains(f[1]+f[2], "/") {
		return "", fmt.Errorf("reading the container's cgroup %.200q: expected an absolute path or slice:prefix:name", s)
	}
	if f[0] == "" {
		f[0] = "system.slice"
	}
	slice, err := expandSlice(f[0])
	if err != nil {
		return "", err
	}
	unit := f[2]
	if !strings.HasSuffix(unit, ".slice") {
		unit = f[1] + "-" + f[2] + ".scope"
	}
	return path.Join(slice, unit), nil
}

// expandSlice gives the path of a slice, whose name says which it is in:
// "a-b.slice" is "/a.slice/a-b.slice" (systemd.slice(5)).
func expandSlice(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok || strings.Contains(name, "/") {
		return "", fmt.Errorf("reading the container's cgroup: %.200q is no slice", slice)
	}
	if name == "-" {
		return "/", nil
	}
	at, prefix := "/", ""
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", fmt.Errorf("reading the container's cgroup: %.200q is no slice", slice)
		}
		at = path.Join(at, prefix+part+".slice")
		prefix += part + "-"
	}
	return at, nil
}
