// Command vminit is the first and only program of the virtual machine of `make
// vmtest`: it mounts what the tests need, runs those that the kernel's command line
// names (vmtest=REGEXP, which the kernel makes environment), says how they ended and
// turns the machine off.
package main

import (
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

func main() {
	err := prepare()
	if err == nil {
		test := exec.Command("/t/enclave.test", "-test.v", "-test.parallel", "1", "-test.timeout", "10m", "-test.run", os.Getenv("vmtest"))
		test.Env = append(os.Environ(), "WRIT_TEST_PROGRAMS=/t", "HOME=/tmp", "TMPDIR=/tmp")
		test.Stdout, test.Stderr = os.Stdout, os.Stderr
		err = test.Run()
	}
	if err != nil {
		fmt.Println("vmtest: failed:", err)
	} else {
		fmt.Println("vmtest: passed")
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func prepare() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"cgroup2", "/sys/fs/cgroup"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m.at, err)
		}
	}
	if err := os.Chmod("/tmp", 0o1777); err != nil {
		return err
	}
	_ = os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+pids"), 0) // for pids.max
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
