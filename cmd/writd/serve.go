package main

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/internal/supervised"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/api"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/token"
	"github.com/writ-attestation/writ/verifier/witness"
)

// Files of the data directory, beside those of package keys.
const (
	databaseFile = "writ.db"
	guardFile    = "log.guard"
	devMark      = "DEVELOPMENT" // only `writd dev` serves a directory with it
)

func newServe() *cobra.Command {
	var path string
	var how onOpen
	cmd := &cobra.Command{Use: "serve --config FILE", Short: "Run a verifier", Args: wantArgs(),
		Long: `Run a verifier until it is told to stop. The first start makes the domain's keys
and the first operator's certificate in the data directory.

Exit codes: 0 told to stop; 2 configuration, or a key or the guard file is missing
or another one; 6 the database is older than what was signed, or another history;
1 any other failure.`,
		Example: `  writd serve --config writd.toml`,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			c, err := configured(path)
			if err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Join(c.Data, devMark)); err == nil {
				return unusable(fmt.Errorf("%s was made by writ dev, whose keys and TPM maker are for play; use another data directory", c.Data))
			}
			v, err := open(cmd.Context(), c, newLogger(cmd.ErrOrStderr(), c), how)
			if err != nil {
				return err
			}
			defer v.Close()
			return v.serve(cmd.Context(), c.Listen, c.Admin, nil)
		})}
	cmd.Flags().StringVar(&path, "config", "", "configuration `file`")
	cmd.Flags().BoolVar(&how.newRoot, "replace-root", false, "once: certify token keys by another root key than before, or by none; nodes and gates then need the trust file anew")
	cmd.Flags().BoolVar(&how.adopt, "adopt", false, "once: write a lost guard file from the store, trusting that nothing is missing from it")
	return cmd
}

func newLogger(w io.Writer, c *config) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		level = slog.LevelInfo // check has refused anything else
	}
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "text" {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}

// running is an open verifier.
type running struct {
	cfg    *config
	log    *slog.Logger
	store  database
	ledger *ledger.Log
	keys   *keys.Keys
	svc    *verifier.Service
	tpm    *device.TPM    // of root
	root   *device.Signer // nil: the domain has none

	newRoot bool         // another root than the recorded one is meant
	demo    http.Handler // of `writd dev` alone
}

// onOpen is what an operator may say once.
type onOpen struct{ adopt, newRoot bool }

// open opens store, keys, log and service in the only safe order: keys are made
// only where nothing was ever signed.
func open(ctx context.Context, c *config, log *slog.Logger, how onOpen) (_ *running, err error) {
	v := &running{cfg: c, log: log, newRoot: how.newRoot}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.Close())
		}
	}()
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return nil, fmt.Errorf("opening the data directory: %w", err)
	}
	if err := v.openRoot(); err != nil {
		return nil, err
	}
	db, err := c.openDatabase(ctx)
	if err != nil {
		return nil, err
	}
	v.store = db
	empty, err := unused(ctx, v.store, filepath.Join(c.Data, guardFile))
	if err != nil {
		return nil, err
	}
	if v.keys, err = keysOf(c, empty); err != nil {
		return nil, err
	}
	if v.ledger, err = ledger.Open(ctx, ledger.Config{Store: v.store, Origin: c.Domain + "/log", Key: v.keys.Log, Peers: c.Peers, Retired: c.RetiredPeers, GuardFile: filepath.Join(c.Data, guardFile), Adopt: how.adopt, Log: log}); err != nil {
		return nil, err
	}
	v.svc, err = v.service(ctx)
	return v, err
}

// unused reports that neither store nor guard file knows of any history.
func unused(ctx context.Context, s ledger.Reader, guard string) (bool, error) {
	head, err := s.Head(ctx)
	if err != nil {
		return false, err
	}
	_, err = os.Stat(guard)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("looking for the guard file: %w", err)
	}
	return head.Size == 0 && err != nil, nil
}

func (v *running) service(ctx context.Context) (*verifier.Service, error) {
	c := v.cfg
	roots, err := c.ekRoots()
	if err != nil {
		return nil, unusable(err)
	}
	devices, err := c.iakRoots()
	if err != nil {
		return nil, unusable(err)
	}
	bundle, intermediates := c.ekBundle()
	signers, err := c.referenceKeys()
	if err != nil {
		return nil, unusable(err)
	}
	peers, err := c.keyIDs(c.Peers)
	if err != nil {
		return nil, unusable(err)
	}
	retired, err := c.keyIDs(c.RetiredPeers)
	if err != nil {
		return nil, unusable(err)
	}
	profile, _ := token.Profile(c.EARProfile) // check has refused anything else
	var root crypto.Signer
	if v.root != nil {
		root = v.root
	}
	return verifier.New(ctx, verifier.Config{
		Root: root, ReplaceRoot: v.newRoot,
		Domain: c.Domain, Name: c.Name, Issuer: c.issuer(), Build: "writ " + version, Log: v.ledger, Slog: v.log, SinceBoot: sinceBoot,
		DialPeer: dialPeer,
		EKRoots:  roots, IAKRoots: devices, EKVendors: bundle, EKIntermediates: intermediates, Issuers: c.issuers(), TokenKeys: v.keys.Tokens, TokenKeyLife: time.Duration(c.TokenKeyLife), KeyOverlap: time.Duration(c.TokenKeyOverlap), ChallengeKey: v.keys.Challenge, KeyIDs: v.keys.IDs(), PeerLogKeys: peers, RetiredLogKeys: retired, Witnesses: c.Witnesses, WitnessMaxAge: time.Duration(c.WitnessMaxAge),
		ReferenceKeys: signers, ReferenceThreshold: c.ReferenceThreshold, Approvals: c.Approvals,
		TokenLife: time.Duration(c.TokenLife), EARProfile: profile, Audiences: c.Audiences, Exchange: c.ExchangeAudiences, Workloads: c.workloads(), SVIDs: v.keys.SVIDs, IssueSVIDs: c.X509SVIDs, MinLevel: c.MinLevel, ProveHaltEvery: time.Duration(c.ProveHaltEvery),
	})
}

// sinceBoot reads the clock that counts suspends and that nobody can set.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // a step, as the verifier sees it: it stops issuing
	}
	return time.Duration(t.Nano())
}

// serve answers on both addresses until ctx is done. ready is told the addresses
// it listens on.
func (v *running) serve(ctx context.Context, public, admin string, ready func(public, admin net.Addr) error) error {
	p, err := net.Listen("tcp", public)
	if err != nil {
		return fmt.Errorf("listening for nodes: %w", err)
	}
	defer p.Close()
	a, err := net.Listen("tcp", admin)
	if err != nil {
		return fmt.Errorf("listening for the administrator: %w", err)
	}
	defer a.Close()
	hosts := v.cfg.Addresses
	if len(hosts) == 0 {
		hosts = []string{"localhost", "127.0.0.1"}
		if name, err := os.Hostname(); err == nil {
			hosts = append(hosts, name)
		}
	}
	if u, err := url.Parse(v.cfg.issuer()); err == nil {
		// Relying parties come by the issuer's name, through whatever is before us.
		hosts = append(slices.Clone(hosts), net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")))
	}
	streams, err := v.cfg.receivers()
	if err != nil {
		return err
	}
	s, err := api.New(api.Config{Service: v.svc, Keys: v.keys, Name: v.cfg.Name, Hosts: hosts, PublicEntries: v.cfg.PublicEntries, Pages: v.cfg.Public.Pages, Streams: streams, Demo: v.demo, PublicEvidence: v.cfg.Public.Evidence, Version: version, Log: v.log})
	if err != nil {
		return err
	}
	policy, err := bundle.ParsePolicy(v.cfg.Witnesses)
	if err != nil {
		return err
	}
	if len(policy.Witnesses) > 0 {
		rounds, stop := context.WithCancel(ctx)
		var asking sync.WaitGroup
		defer asking.Wait()
		defer stop()
		round := witness.New(witness.Config{Log: v.ledger, Policy: policy, Every: time.Duration(v.cfg.WitnessEvery), Again: time.Duration(v.cfg.WitnessMaxAge) / 4, Keep: v.svc.Witnessed, Slog: v.log})
		asking.Go(func() { round.Run(rounds) })
	}
	if keep := v.cfg.Retention.service(); keep != (verifier.Retention{}) {
		while, stop := context.WithCancel(ctx)
		var pruning sync.WaitGroup
		defer pruning.Wait()
		defer stop()
		pruning.Go(func() { v.svc.Retain(while, keep) })
	}
	following, unfollow := context.WithCancel(ctx)
	var followed sync.WaitGroup
	defer followed.Wait()
	defer unfollow()
	followed.Go(func() { v.svc.FollowPeers(following, time.Duration(v.cfg.FollowEvery)) })
	tending, untend := context.WithCancel(ctx)
	var tended sync.WaitGroup
	defer tended.Wait()
	defer untend()
	tended.Go(func() { v.tend(tending) })
	if ready != nil {
		if err := ready(p.Addr(), a.Addr()); err != nil {
			return err
		}
	}
	supervised.Ready(v.log)
	defer supervised.Stopping(v.log)
	watched, unwatch := context.WithCancel(ctx)
	defer unwatch()
	go supervised.Watch(watched, v.log, v.commits)
	v.log.InfoContext(ctx, "serving", "domain", v.cfg.Domain, "address", p.Addr().String(), "admin", a.Addr().String(), "entries", v.ledger.Size(), "operator", filepath.Join(v.cfg.Data, "operator.pem"))
	return until(ctx, s, p, a)
}

// tend looks after the token keys and declares which nodes have lapsed: at once when the log has grown, for another
// verifier may have withdrawn one, but not more than a few times a second.
func (v *running) tend(ctx context.Context) {
	const often, seldom = 200 * time.Millisecond, time.Second
	last := ""
	for {
		grown := v.ledger.Changed()
		err := errors.Join(v.svc.TendKeys(ctx), v.svc.Lapse(ctx))
		if text := fmt.Sprint(err); err != nil && ctx.Err() == nil && text != last {
			v.log.ErrorContext(ctx, "looking after token keys and deadlines", "error", err)
		}
		last = fmt.Sprint(err)
		pause := time.NewTimer(seldom)
		select {
		case <-ctx.Done():
			return
		case <-grown:
			pause.Reset(often)
		case <-pause.C:
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// commits reports whether the committer still answers, whatever it answers: a frozen
// domain or a database that is away is not mended by starting anew.
func (v *running) commits(ctx context.Context) bool {
	_, err := v.ledger.Append(ctx, ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) { return ledger.Change{}, nil }})
	return err == nil || ctx.Err() == nil
}

// stopTime is how long requests may take to finish when told to stop.
const stopTime = 10 * time.Second

// until serves both listeners until ctx is done or one of them fails.
func until(ctx context.Context, s *api.Server, public, admin net.Listener) error {
	ended := make(chan error, 2)
	go func() { ended <- s.Serve(public) }()
	go func() { ended <- s.ServeAdmin(admin) }()
	var err error
	running := 2
	select {
	case <-ctx.Done():
	case err = <-ended:
		running--
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	err = errors.Join(err, s.Shutdown(stop))
	for range running {
		err = errors.Join(err, <-ended)
	}
	return err
}

// Close ends what was opened.
func (v *running) Close() error {
	var errs []error
	if v.ledger != nil {
		errs = append(errs, v.ledger.Close())
	}
	if v.store != nil {
		errs = append(errs, v.store.Close())
	}
	if v.tpm != nil {
		errs = append(errs, v.tpm.Close())
	}
	return errors.Join(errs...)
}
