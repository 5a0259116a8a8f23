package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/internal/durable"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
)

func newLogWitness() *cobra.Command {
	var trust []string
	var name, key, dir, listen string
	var create bool
	cmd := &cobra.Command{
		Use:   "witness --trust FILE --name NAME --key FILE --dir DIR",
		Short: "Cosign the checkpoints of other domains' logs",
		Long: `Serve POST /add-checkpoint of c2sp.org/tlog-witness for the logs of the trust
files. A checkpoint is cosigned (cosignature/v1) when the log's key has signed it
and it extends the last one cosigned, which is on disk before the answer goes
out. It listens on loopback; put a server with TLS in front. The witness's key,
as tlog policies name it, is printed at the start.

GET /checkpoint/SUM, the SHA-256 of a log's origin in hexadecimal, shows what was
cosigned last. A log that tells another history of that size leaves its checkpoint
beside it in the directory, as .conflict.

The directory must never be put back to an older state: that is what a witness
is for.`,
		Example: "  writ log witness --trust b.trust.json --name witness.a.example --key witness.key --create-key --dir /var/lib/writ-witness",
		Args:    wantArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(trust) == 0 || name == "" || key == "" || dir == "" {
				return usageError(cmd, "--trust FILE, --name NAME, --key FILE and --dir DIR are needed")
			}
			if host, _, err := net.SplitHostPort(listen); err != nil || !isLoopback(host) {
				return usageError(cmd, "--listen %q: an address on loopback is needed", listen)
			}
			k, err := signingKey(cmd, key, create)
			if err != nil {
				return err
			}
			w, err := ledger.NewWitness(name, k)
			if err != nil {
				return exit(exitUsage, err, "")
			}
			s := &witness{Witness: w, dir: dir, logs: map[string]*bundle.Trust{}, now: time.Now}
			for _, path := range trust {
				t, err := readTrust(cmd, path)
				if err != nil {
					return err
				}
				s.logs[t.Domain+"/log"] = t
			}
			return s.run(cmd, listen)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&trust, "trust", nil, "trust `file` of a domain whose log is witnessed (repeatable)")
	f.StringVar(&name, "name", "", "`name` of the witness: a host name of its operator")
	f.StringVar(&key, "key", "", "the witness's Ed25519 key, `file`; use it for nothing else")
	f.BoolVar(&create, "create-key", false, "make the key if the file does not exist")
	f.StringVar(&dir, "dir", "", "`directory` of the checkpoints cosigned last")
	f.StringVar(&listen, "listen", "127.0.0.1:8447", "`address` on loopback")
	return cmd
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// witness serves one ledger.Witness. The directory holds a checkpoint per log,
// and a lock, so that nobody else admits in between.
type witness struct {
	*ledger.Witness
	dir  string
	logs map[string]*bundle.Trust // by origin: who may have signed a checkpoint
	now  func() time.Time

	mu sync.Mutex // from reading the last checkpoint until the next one is on disk
}

func (s *witness) run(cmd *cobra.Command, listen string) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("making the witness's directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("locking the witness's directory: %w", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return exit(exitUsage, fmt.Errorf("%s is in use by another witness", s.dir), "")
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "witness %s\nhttp://%s\n", s.VerifierKey(), l.Addr())
	server := &http.Server{Handler: s.handler(), ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(cmd.Context(), func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *witness) handler() http.Handler {
	mux := http.NewServeMux()
	// What the witness has cosigned last of a log, by the SHA-256 of its origin: a log
	// that is refused can hold it against its own history.
	mux.HandleFunc("GET /checkpoint/{origin}", func(w http.ResponseWriter, r *http.Request) {
		note, err := s.last(r.PathValue("origin"))
		if err != nil {
			http.Error(w, http.StatusText(witnessStatus(err)), witnessStatus(err))
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write(note)
	})
	mux.HandleFunc("POST /add-checkpoint", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, "submission is too long", http.StatusRequestEntityTooLarge)
			return
		}
		line, err := s.add(body)
		var stale *staleError
		switch {
		case err == nil:
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = w.Write(line)
		case errors.As(err, &stale):
			w.Header().Set("Content-Type", "text/x.tlog.size")
			w.WriteHeader(http.StatusConflict)
			fmt.Fprintf(w, "%d\n", stale.size)
		default:
			http.Error(w, http.StatusText(witnessStatus(err)), witnessStatus(err))
		}
	})
	return mux
}

var (
	errUnknownLog = errors.New("log is not witnessed here")
	errMalformed  = errors.New("malformed submission")
)

// staleError says which size was cosigned last.
type staleError struct {
	size uint64
	err  error
}

func (e *staleError) Error() string { return e.err.Error() }

// witnessStatus is what c2sp.org/tlog-witness answers for each refusal.
func witnessStatus(err error) int {
	switch {
	case errors.Is(err, errUnknownLog):
		return http.StatusNotFound
	case errors.Is(err, ledger.ErrKey):
		return http.StatusForbidden
	case errors.Is(err, ledger.ErrUnproven):
		return http.StatusUnprocessableEntity
	case errors.Is(err, errMalformed), errors.Is(err, ledger.ErrOldSize):
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

// path is where the last checkpoint of a log is kept.
func (s *witness) path(origin string) string {
	return filepath.Join(s.dir, fmt.Sprintf("%x.checkpoint", sha256.Sum256([]byte(origin))))
}

// last is the checkpoint that was cosigned last of the log whose origin has a SHA-256.
func (s *witness) last(sum string) ([]byte, error) {
	for origin := range s.logs {
		if fmt.Sprintf("%x", sha256.Sum256([]byte(origin))) == sum {
			s.mu.Lock()
			defer s.mu.Unlock()
			note, err := os.ReadFile(s.path(origin))
			if errors.Is(err, fs.ErrNotExist) {
				err = errUnknownLog
			}
			return note, err
		}
	}
	return nil, errUnknownLog
}

// split keeps a checkpoint of the size cosigned last that has another root: with that
// one it proves that the log tells two histories.
func (s *witness) split(path string, last ledger.Checkpoint, sub ledger.Submission, t *bundle.Trust) error {
	next, err := t.OpenCheckpoint(sub.Note)
	if err != nil || last.Origin == "" || next.Size != last.Size || next.Root == last.Root {
		return nil
	}
	return durable.WriteFile(path+".conflict", sub.Note, 0o600)
}

// add cosigns a submission: check, store, then sign.
func (s *witness) add(body []byte) ([]byte, error) {
	sub, err := ledger.ParseSubmission(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	t := s.logs[sub.Origin()]
	if t == nil {
		return nil, errUnknownLog
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	path := s.path(sub.Origin())
	var last ledger.Checkpoint
	raw, err := os.ReadFile(path)
	if err == nil {
		last, err = t.OpenCheckpoint(raw)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the last checkpoint: %w", err)
	}
	if err := s.split(path, last, sub, t); err != nil {
		return nil, err
	}
	next, err := sub.Admit(last, t.LogKeys(sub.Note)...)
	if errors.Is(err, ledger.ErrStale) {
		return nil, &staleError{last.Size, err}
	}
	if err != nil {
		return nil, err
	}
	if next != last {
		if err := durable.WriteFile(path, sub.Note, 0o600); err != nil {
			return nil, err
		}
	}
	return s.Cosign(sub.Note, s.now())
}
