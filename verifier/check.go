package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// StateReport is what [CheckState] found.
type StateReport struct {
	Nodes     int    // compared with what their entries say
	Decisions int    // whose rows and evidence were looked at
	Blobs     int    // read and hashed
	Underived uint64 // entries below are not all known, so what only they said was not compared
	Problems  []ledger.Problem
}

// CheckState derives the state of a domain again from the entries of its log:
// nodes, their keys, reference sets, join tokens, token keys, approvals, governance
// and retention; and holds the rows against it. Of every decision that retention
// has not given up it looks for the evidence, the verdict and the token. It takes
// each entry for what its hash is of: whether the log itself holds is for
// [ledger.Fsck]. It reads only, and may run beside a verifier in use.
func CheckState(ctx context.Context, r ledger.Reader, domain string) (StateReport, error) {
	c := newStateCheck(r, domain)
	var lasting []ledger.Problem
	for try := range 5 {
		if err := c.read(ctx); err != nil {
			return c.report, fmt.Errorf("deriving the state: %w", err)
		}
		c.found = nil
		if err := c.compare(ctx); err != nil {
			return c.report, fmt.Errorf("comparing the state: %w", err)
		}
		found := append(c.decided(), c.found...)
		if try > 0 { // what came of rows that changed meanwhile does not last
			found = slices.DeleteFunc(found, func(p ledger.Problem) bool { return !slices.Contains(lasting, p) })
		}
		lasting = found
		h, err := r.Head(ctx)
		if err != nil {
			return c.report, fmt.Errorf("reading head: %w", err)
		}
		if len(found) == 0 || h.Size == c.size {
			break
		}
	}
	c.report.Problems, c.report.Underived = lasting, c.bare
	return c.report, nil
}

// stateCheck is the state as the entries so far say it is.
type stateCheck struct {
	store  ledger.Reader
	domain string
	report StateReport
	size   uint64 // entries taken
	bare   uint64 // the last entry below this one is not known: given up, or damaged

	found     []ledger.Problem            // by the comparison of now
	decisions map[uint64][]ledger.Problem // by the index of the decision
	isOne     map[uint64]bool             // indexes of entries that have a decision row
	blobs     map[string]string           // digest -> what is wrong with it

	given retained          // what retention had given up when the entries were read
	ids   map[string]string // pseudonym -> node id

	nodes      map[string]*nodeCheck // by pseudonym
	over       map[uint64]string     // run of legitimacy that is over -> pseudonym of the node
	halts      map[uint64]int64      // tokens of proofs of halt, by index: when they were issued
	joins      map[string]*joinCheck
	references map[string]claimed[bundle.Reference] // by pseudonym
	pending    map[string][]string                  // act -> pseudonyms of who approved it so far
	verifiers  map[string]bool                      // pseudonyms
	openings   map[string]uint64                    // commitment -> entry
	keys       map[string]string                    // purpose -> id, as the last start said
	peers      map[string]peerCheck                 // by domain
	operators  map[string]claimed[int64]            // pseudonym -> until when its certificates are revoked
	ended      map[string]uint64                    // log key that was retired -> entry
	tokens     tokenKeys
	state      domainCheck
	pruned     claimed[ledger.Pruned]
}

func newStateCheck(r ledger.Reader, domain string) *stateCheck {
	return &stateCheck{store: r, domain: domain, decisions: map[uint64][]ledger.Problem{}, isOne: map[uint64]bool{}, blobs: map[string]string{}, ids: map[string]string{},
		nodes: map[string]*nodeCheck{}, over: map[uint64]string{}, halts: map[uint64]int64{}, joins: map[string]*joinCheck{}, references: map[string]claimed[bundle.Reference]{},
		pending: map[string][]string{}, verifiers: map[string]bool{}, openings: map[string]uint64{}, ended: map[string]uint64{}, peers: map[string]peerCheck{}, operators: map[string]claimed[int64]{}}
}

// claimed is a value that an entry says, and which one.
type claimed[T comparable] struct {
	value T
	entry uint64
	known bool
}

func say[T comparable](v T, entry uint64) claimed[T] { return claimed[T]{v, entry, true} }

// differs notes that a row says something else than the entries, if those that
// could have said it last are all known.
func differs[T comparable](c *stateCheck, where, what string, s claimed[T], row T) {
	if s.known && s.entry >= c.bare && s.value != row {
		c.problem(where, "its %s is %v; by entry %d it is %v", what, row, s.entry, s.value)
	}
}

func (c *stateCheck) problem(where, format string, args ...any) {
	c.found = append(c.found, ledger.Problem{Where: where, Detail: fmt.Sprintf(format, args...)})
}

// subject is the pseudonym of a name in this domain's log.
func (c *stateCheck) subject(name string) string { return bundle.Subject(c.domain, name) }

// read takes the entries up to the head.
func (c *stateCheck) read(ctx context.Context) error {
	h, err := c.store.Head(ctx)
	if err != nil {
		return fmt.Errorf("reading head: %w", err)
	}
	if err := c.one(ctx, retainedKey, &c.given); err != nil {
		return err
	}
	if err := c.names(ctx); err != nil {
		return err
	}
	for c.size < h.Size {
		page, err := c.store.Records(ctx, c.size, h.Size)
		if err != nil && !errors.Is(err, ledger.ErrCorrupt) {
			return fmt.Errorf("reading entries from %d: %w", c.size, err)
		}
		for i, rec := range page {
			if rec.Index != c.size+uint64(i) {
				page = page[:i]
				break
			}
		}
		if len(page) == 0 { // ledger.Fsck says which is missing
			c.size, c.bare = h.Size, h.Size
			return nil
		}
		if err := c.page(ctx, page); err != nil {
			return err
		}
	}
	return nil
}

// page takes the next entries, with the rows of the decisions among them.
func (c *stateCheck) page(ctx context.Context, page []ledger.Record) error {
	leaves := make([]ledger.Leaf, len(page))
	known := make([]bool, len(page))
	var keys []ledger.Key
	for i, rec := range page {
		leaf, err := ledger.ParseLeaf(rec.Data)
		known[i] = len(rec.Data) > 0 && err == nil && ledger.LeafHash(rec.Data) == rec.Hash
		leaves[i] = leaf
		if id := c.ids[leaf.Subject]; known[i] && id != "" && decides(leaf.Kind) {
			keys = append(keys, decisionKey(id, rec.Index))
		}
	}
	rows, err := c.rows(ctx, keys)
	if err != nil {
		return err
	}
	for i, leaf := range leaves {
		index := c.size
		c.size++
		if !known[i] {
			c.bare = c.size
			continue
		}
		if err := c.take(ctx, index, leaf, rows); err != nil {
			c.decisions[index] = append(c.decisions[index], ledger.Problem{Where: fmt.Sprintf("entry %d", index), Detail: err.Error()})
		}
	}
	return nil
}

// decides reports whether an entry of a kind has a decision row beside it.
func decides(kind string) bool {
	return kind == bundle.Decided || kind == bundle.Issued || kind == bundle.Renewed || kind == bundle.Admitted
}

// take changes what is derived by the next entry.
func (c *stateCheck) take(ctx context.Context, index uint64, leaf ledger.Leaf, rows map[ledger.Key][]byte) error {
	switch leaf.Kind {
	case bundle.NodeEnrolled, bundle.NodeStatus, bundle.Revoked, bundle.Decided, bundle.Issued, bundle.Renewed, bundle.Lapsed, bundle.Admitted, bundle.Terminated:
		return c.takeNode(ctx, index, leaf, rows)
	}
	return c.takeDomain(index, leaf)
}

// dataOf decodes the data of an entry.
func dataOf[T any](leaf ledger.Leaf) (v T, err error) {
	if err := json.Unmarshal(leaf.Data, &v); err != nil {
		return v, fmt.Errorf("reading %s: %w", leaf.Kind, err)
	}
	return v, nil
}

// one reads a row of which there is one; v stays as it is where there is none.
func (c *stateCheck) one(ctx context.Context, key ledger.Key, v any) error {
	rows, err := c.rows(ctx, []ledger.Key{key})
	if err != nil || rows[key] == nil {
		return err
	}
	return decode(rows[key], v)
}

// rows reads those rows that can be read. Damaged ones are named by the store's own
// check; here they are absent.
func (c *stateCheck) rows(ctx context.Context, keys []ledger.Key) (map[ledger.Key][]byte, error) {
	out := map[ledger.Key][]byte{}
	found, err := c.store.Rows(ctx, keys)
	if errors.Is(err, ledger.ErrCorrupt) && len(keys) > 1 {
		for _, k := range keys {
			one, err := c.rows(ctx, []ledger.Key{k})
			if err != nil {
				return nil, err
			}
			for k, v := range one {
				out[k] = v
			}
		}
		return out, nil
	}
	if err != nil && !errors.Is(err, ledger.ErrCorrupt) {
		return nil, fmt.Errorf("reading rows: %w", err)
	}
	for _, p := range found {
		out[p.Key] = p.Value
	}
	return out, nil
}

// each visits every row of a kind; a damaged one ends that, named.
func (c *stateCheck) each(ctx context.Context, kind string, visit func(id string, value []byte) error) error {
	for after := ""; ; {
		page, err := c.store.List(ctx, kind, after, 512)
		if errors.Is(err, ledger.ErrCorrupt) {
			c.problem(kind+" rows", "%v; those after it were not compared", err)
			return nil
		}
		if err != nil || len(page) == 0 {
			return err
		}
		for _, r := range page {
			if err := visit(r.Key.ID, r.Value); err != nil {
				c.problem(kind+" "+r.Key.ID, "reading its row: %v", err)
			}
		}
		after = page[len(page)-1].Key.ID
	}
}

// names learns which node a pseudonym is.
func (c *stateCheck) names(ctx context.Context) error {
	c.found = nil
	return c.each(ctx, kindNode, func(id string, _ []byte) error {
		c.ids[c.subject(id)] = id
		return nil
	})
}

// decided are the problems of decisions that retention has not given up meanwhile.
func (c *stateCheck) decided() (out []ledger.Problem) {
	for index, ps := range c.decisions {
		if index >= c.given.Evidence {
			out = append(out, ps...)
		}
	}
	slices.SortFunc(out, func(a, b ledger.Problem) int {
		return slices.Compare([]string{a.Where, a.Detail}, []string{b.Where, b.Detail})
	})
	return out
}

// compare holds all rows against what the entries say.
func (c *stateCheck) compare(ctx context.Context) error {
	c.report.Nodes = 0
	if err := c.one(ctx, retainedKey, &c.given); err != nil {
		return err
	}
	for _, compare := range []func(context.Context) error{c.compareNodes, c.compareSubjects, c.compareKeysOfNodes, c.compareOver, c.compareDecisions, c.compareEvidence, c.compareDomain, c.compareReferences, c.compareJoins, c.comparePending, c.comparePeers, c.compareOperators, c.compareOpenings} {
		if err := compare(ctx); err != nil {
			return err
		}
	}
	return nil
}
