package workload

import (
	"os"
	"strings"
	"testing"
)

func id(n int) *uint32 { u := uint32(n); return &u }

// TestMap: all that an entry gives must match, what cannot be looked at matches
// nothing, and an entry that would match everything is refused.
func TestMap(t *testing.T) {
	own := caller{uint32(os.Getuid()), uint32(os.Getgid()), int32(os.Getpid())}
	digest, err := executableOf(own.pid)
	if err != nil {
		t.Fatal(err)
	}
	group, err := cgroupOf(own.pid)
	if err != nil {
		group = "" // no cgroup v2 here
	}
	gone := caller{own.uid, own.gid, 1 << 30}
	for name, c := range map[string]struct {
		entry Entry
		who   caller
		match bool
	}{
		"user":                           {Entry{UID: id(os.Getuid())}, own, true},
		"another user":                   {Entry{UID: id(os.Getuid() + 1)}, own, false},
		"group of users":                 {Entry{GID: id(os.Getgid())}, own, true},
		"another group":                  {Entry{GID: id(os.Getgid() + 1)}, own, false},
		"executable":                     {Entry{Executable: digest}, own, true},
		"another executable":             {Entry{Executable: "sha256:" + strings.Repeat("0", 64)}, own, false},
		"user, but another executable":   {Entry{UID: id(os.Getuid()), Executable: "sha256:" + strings.Repeat("0", 64)}, own, false},
		"executable, but another user":   {Entry{UID: id(os.Getuid() + 1), Executable: digest}, own, false},
		"executable of one that is gone": {Entry{Executable: digest}, gone, false},
		"user of one that is gone":       {Entry{UID: id(os.Getuid()), CGroup: "/x/"}, gone, false},
		"another cgroup":                 {Entry{CGroup: "/nowhere"}, own, false},
		"nothing":                        {Entry{}, own, false},
	} {
		got, _ := Map{c.entry}.of(c.who)
		if (len(got) == 1) != c.match {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if group != "" && group != "/" {
		for entry, match := range map[string]bool{group: true, group + "/": false, group[:len(group)-1]: false} {
			if got, _ := (Map{{CGroup: entry}}).of(own); (len(got) == 1) != match {
				t.Errorf("cgroup %s of %s: %+v", entry, group, got)
			}
		}
	}
	e := Entry{CGroup: "/system.slice/"}
	for group, match := range map[string]bool{"/system.slice/api.service": true, "/system.slicer/x": false, "/system.slice": false, "": false} {
		if e.matches(own, group, "") != match {
			t.Errorf("%s below %s", group, e.CGroup)
		}
	}
	for _, bad := range []Entry{{ID: "workload/api"}, {CGroup: "/"}, {CGroup: "x"}, {Executable: "sha256:00"}, {UID: id(1), ID: "/workload/api"}, {UID: id(1), ID: "spiffe://x/y"}} {
		if (Map{bad}).check() == nil {
			t.Errorf("%+v holds", bad)
		}
	}
}
