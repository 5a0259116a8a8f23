package workload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Map says which processes are which workloads. One may be several; the empty Map makes
// none one.
type Map []Entry

// Entry is a workload and how its processes are known: by everything that is given,
// which must be something.
type Entry struct {
	UID        *uint32 `toml:"uid"`
	GID        *uint32 `toml:"gid"`
	CGroup     string  `toml:"cgroup"`     // path in cgroup v2: this one, or below it if it ends in /
	Executable string  `toml:"executable"` // sha256:HEX of the file that runs

	ID        string   `toml:"id"`        // path of the SPIFFE ID; "": the node's own
	Audiences []string `toml:"audiences"` // of its JWT-SVIDs; none: it gets none
}

var digestRE = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func (m Map) check() error {
	for i, e := range m {
		switch {
		case e.UID == nil && e.GID == nil && e.CGroup == "" && e.Executable == "":
			return fmt.Errorf("entry %d of the map matches every process; give uid, gid, cgroup or executable", i+1)
		case e.CGroup != "" && (!strings.HasPrefix(e.CGroup, "/") || e.CGroup == "/"):
			return fmt.Errorf("entry %d of the map: cgroup %.200q: expected a path below the root, like /system.slice/api.service", i+1, e.CGroup)
		case e.Executable != "" && !digestRE.MatchString(e.Executable):
			return fmt.Errorf("entry %d of the map: executable %.100q: expected sha256: and 64 hexadecimal digits", i+1, e.Executable)
		case strings.HasPrefix(e.ID, "/") || strings.Contains(e.ID, "://"):
			return fmt.Errorf("entry %d of the map: id %.200q: expected the path alone, like workload/api", i+1, e.ID)
		}
	}
	return nil
}

func (e *Entry) serves(audience string) bool { return slices.Contains(e.Audiences, audience) }

// caller is whoever holds the other end of a connection.
type caller struct {
	uid, gid uint32
	pid      int32
}

// of returns the entries that match a caller. An error says why what could not be looked
// at matches nothing.
func (m Map) of(c caller) (out []Entry, err error) {
	var group, digest string
	var failed error
	for _, e := range m {
		if e.CGroup != "" && group == "" && failed == nil {
			group, failed = cgroupOf(c.pid)
		}
		if e.Executable != "" && digest == "" && failed == nil {
			digest, failed = executableOf(c.pid)
		}
		if e.matches(c, group, digest) {
			out = append(out, e)
		}
	}
	return out, failed
}

// matches holds an entry against a caller; what is "" could not be looked at.
func (e *Entry) matches(c caller, group, digest string) bool {
	switch {
	case e.UID != nil && *e.UID != c.uid, e.GID != nil && *e.GID != c.gid:
		return false
	case e.Executable != "" && e.Executable != digest:
		return false
	case e.CGroup == "":
		return e.UID != nil || e.GID != nil || e.Executable != ""
	case strings.HasSuffix(e.CGroup, "/"):
		return strings.HasPrefix(group, e.CGroup)
	}
	return group == e.CGroup
}

// cgroupOf is the cgroup (v2) of a process.
func cgroupOf(pid int32) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", fmt.Errorf("looking for the cgroup: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path, nil
		}
	}
	return "", errors.New("looking for the cgroup: the process is in none of version 2")
}

// executableOf is the digest of the file that a process runs.
func executableOf(pid int32) (string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return "", fmt.Errorf("looking at the executable: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("looking at the executable: %w", err)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// peerCredentials asks the kernel who connects to a unix socket. There is no handshake.
type peerCredentials struct{}

// AuthType implements credentials.AuthInfo.
func (caller) AuthType() string { return "peercred" }

func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, nil, err
	}
	if cerr != nil {
		return nil, nil, cerr
	}
	return conn, caller{cred.Uid, cred.Gid, cred.Pid}, nil
}

func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer credentials are of servers alone")
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peercred"}
}
func (p peerCredentials) Clone() credentials.TransportCredentials { return p }
func (peerCredentials) OverrideServerName(string) error           { return nil }

func callerOf(ctx context.Context) (caller, error) {
	p, ok := peer.FromContext(ctx)
	if ok {
		if c, ok := p.AuthInfo.(caller); ok {
			return c, nil
		}
	}
	return caller{}, errors.New("the kernel does not say who calls")
}
