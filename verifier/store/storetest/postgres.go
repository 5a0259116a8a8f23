package storetest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// postgresBin is where Debian has the programs of the server.
const postgresBin = "/usr/lib/postgresql/15/bin/"

// Cluster is a private PostgreSQL server on a Unix socket, in a temporary
// folder. It ends, and its folder goes, with the test process at the latest,
// however that ends.
type Cluster struct {
	dir      string
	settings []string
	as       *syscall.Credential // nil: as this process
	leash    io.WriteCloser      // the server ends when this does
	schemas  atomic.Int64
}

var shared struct {
	sync.Mutex
	*Cluster
}

// Postgres returns the URL of a new, empty schema on the server of [Shared].
func Postgres(t testing.TB) string {
	t.Helper()
	return Shared(t).URL(t)
}

// Shared returns the server that all tests of this process share. Nobody stops
// it or changes its settings.
func Shared(t testing.TB) *Cluster {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.Cluster == nil {
		shared.Cluster = NewCluster(t, "fsync=off", "full_page_writes=off", "synchronous_commit=off")
	}
	return shared.Cluster
}

// NewCluster starts a server with settings such as "fsync=off".
func NewCluster(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	if _, err := os.Stat(postgresBin + "postgres"); err != nil {
		t.Fatal("PostgreSQL 15 is needed: make tools, or apt-get install --no-install-recommends postgresql-15 (with create_main_cluster = false in /etc/postgresql-common/createcluster.conf)")
	}
	dir, err := os.MkdirTemp("", "writ-pg-") // its path must fit a socket's name
	must(t, err)
	c := &Cluster{dir: dir, settings: append(settings, "jit=off", "max_connections=300")}
	if os.Getuid() == 0 { // the server refuses to run as root
		u, err := user.Lookup("postgres")
		must(t, err)
		uid, err := strconv.Atoi(u.Uid)
		must(t, err)
		gid, err := strconv.Atoi(u.Gid)
		must(t, err)
		c.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		must(t, os.Chown(dir, uid, gid))
	}
	init := c.command(postgresBin+"initdb", "-D", c.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	c.start(t)
	return c
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *Cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = c.dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=" + c.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.as}
	return cmd
}

// keep runs the server, again when it dies, until standard input ends.
const keep = `(until [ -e stop ]; do "$@" >>log 2>&1; sleep 0.1; done) &
cat >/dev/null; touch stop; kill -QUIT $(head -n 1 data/postmaster.pid); wait; rm -rf "$0"`

func (c *Cluster) start(t testing.TB) {
	t.Helper()
	args := []string{"-c", keep, c.dir, postgresBin + "postgres", "-D", c.data(), "-k", c.dir, "-c", "listen_addresses="}
	for _, s := range c.settings {
		args = append(args, "-c", s)
	}
	cmd := c.command("sh", args...)
	var err error
	c.leash, err = cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	go func() { _ = cmd.Wait() }()
	c.Wait(t)
}

// Wait waits until the server answers.
func (c *Cluster) Wait(t testing.TB) {
	t.Helper()
	for range 300 {
		if c.command(postgresBin+"pg_isready", "-q", "-h", c.dir).Run() == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	log, err := os.ReadFile(filepath.Join(c.dir, "log"))
	t.Fatalf("the PostgreSQL server does not answer (%v): %s", err, log)
}

// Kill kills the server, with SIGKILL. It comes back by itself.
func (c *Cluster) Kill(t testing.TB) {
	t.Helper()
	file, err := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	must(t, err)
	first, _, _ := strings.Cut(string(file), "\n")
	pid, err := strconv.Atoi(first)
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGKILL))
}

// Close ends the server.
func (c *Cluster) Close() error { return c.leash.Close() }

// Exec runs SQL as superuser and returns what psql prints.
func (c *Cluster) Exec(t testing.TB, sql string) string {
	t.Helper()
	out, err := c.psql(sql)
	if err != nil {
		t.Fatalf("%s: %v\n%s", sql, err, out)
	}
	return out
}

// Try is Exec for SQL that may fail; then the error is among what it returns.
func (c *Cluster) Try(sql string) string {
	out, _ := c.psql(sql)
	return out
}

func (c *Cluster) psql(sql string) (string, error) {
	out, err := c.command(postgresBin+"psql", "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-h", c.dir, "-U", "postgres", "-d", "postgres", "-c", sql).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// URL returns the URL of a new, empty schema.
func (c *Cluster) URL(t testing.TB) string {
	t.Helper()
	schema := fmt.Sprintf("s%d", c.schemas.Add(1))
	c.Exec(t, "CREATE SCHEMA "+schema)
	return fmt.Sprintf("postgres://postgres@/postgres?host=%s&search_path=%s", c.dir, schema)
}

// Socket returns the path of the socket that the server listens on.
func (c *Cluster) Socket() string { return filepath.Join(c.dir, ".s.PGSQL.5432") }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
