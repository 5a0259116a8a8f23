package verifier

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// segmentRE is a segment of the path of a SPIFFE ID (SPIFFE-ID section 2.2).
var segmentRE = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// CheckWorkload checks the path of a workload's SPIFFE ID. Those of nodes, verifiers
// and operators are nobody else's.
func CheckWorkload(path string) error {
	segments := strings.Split(path, "/")
	for _, s := range segments {
		if !segmentRE.MatchString(s) || s == "." || s == ".." {
			return fmt.Errorf("workload %.100q: expected a path like workload/api", path)
		}
	}
	if len(path) > 256 || slices.Contains([]string{"node", "verifier", "operator", "enclave"}, segments[0]) {
		return fmt.Errorf("workload %.100q: paths that begin with node, verifier, operator or enclave are taken", path)
	}
	return nil
}

// workloadID is the SPIFFE ID of a workload on the node of a token, "" the node's own.
func (s *Service) workloadID(base *token.Claims, workload string) string {
	if workload == "" {
		return base.Subject
	}
	return "spiffe://" + s.cfg.Domain + "/" + workload
}

// mayBe checks that a node may vouch for a workload: its class is listed for it.
func (s *Service) mayBe(n *Node, workload string) error {
	if workload != "" && !slices.Contains(s.cfg.Workloads[workload], n.Class) {
		return protocol.Refuse(protocol.RequestRefused, "nodes of class %s may not have the identity %.100q; add it to workloads", n.Class, workload)
	}
	return nil
}

// SVID gives a node that proved possession of its base token's key an X509-SVID for
// itself or a workload it may vouch for. It ends with the base token and is recorded
// before it is signed. What takes it hears of no revocation before that.
func (s *Service) SVID(ctx context.Context, base *token.Claims, req protocol.SVIDRequest) (*protocol.SVID, error) {
	if err := cmp.Or(s.sound(), s.WitnessSound()); err != nil {
		return nil, err
	}
	if s.cfg.SVIDs == nil || !s.cfg.IssueSVIDs {
		return nil, protocol.Refuse(protocol.RequestRefused, "no X509-SVIDs are issued in this domain; set x509_svids")
	}
	public, err := x509.ParsePKIXPublicKey(req.Key)
	if key, ok := public.(*ecdsa.PublicKey); err != nil || !ok || key.Curve != elliptic.P256() {
		return nil, protocol.Refuse(protocol.RequestRefused, "key is no P-256 public key (SubjectPublicKeyInfo)")
	}
	node, ok := s.nodeOf(base.Subject)
	if !ok {
		return nil, protocol.Refuse(protocol.NotEnrolled, "%.100s is not a node of %s", base.Subject, s.cfg.Domain)
	}
	var at time.Time
	_, err = s.log.Append(ctx, ledger.Draft{Keys: []ledger.Key{nodeKey(node), stateKey}, Build: func(slot ledger.Slot) (ledger.Change, error) {
		n, ok, err := slotRow[Node](slot, nodeKey(node))
		if err != nil {
			return ledger.Change{}, err
		}
		if !ok {
			return ledger.Change{}, s.notEnrolled(node)
		}
		if _, err := s.mayDerive(slot, &n, base); err != nil {
			return ledger.Change{}, err
		}
		if err := s.mayBe(&n, req.Workload); err != nil {
			return ledger.Change{}, err
		}
		if at = slot.At; base.Expires <= at.Unix() {
			return ledger.Change{}, protocol.Refuse(protocol.TokenRevoked, "the base token expired; attest anew")
		}
		return ledger.Change{Entries: []ledger.Entry{s.entry(bundle.SVIDIssued, node, "verifier/"+s.cfg.Name,
			bundle.SVID{Workload: req.Workload, Key: hexSum(req.Key), Issued: at.Unix(), Expires: base.Expires, Base: uint64(base.Writ.Log.Index)})}}, nil
	}})
	if err != nil {
		return nil, err
	}
	out := &protocol.SVID{ID: s.workloadID(base, req.Workload), Expires: base.Expires}
	out.Certificate, err = s.cfg.SVIDs.Issue(out.ID, public, at.Add(-10*time.Second), time.Unix(base.Expires, 0)) // clocks of peers may be slow
	return out, err
}
