package keys

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A Role is what an operator may do. No role contains another.
type Role string

// The roles of operators.
const (
	Viewer   Role = "viewer"   // sees nodes, references, executions
	Auditor  Role = "auditor"  // reads the whole history
	Actor    Role = "operator" // acts: join tokens, node status, freeze
	Approver Role = "approver" // approves: reference sets, unfreeze

	RelyingParty Role = "relying-party" // a gate: follows what ends tokens
)

// AllRoles returns every role there is.
func AllRoles() []Role { return []Role{Viewer, Auditor, Actor, Approver, RelyingParty} }

// Operator is a person or service that its certificate lets govern the domain.
// The certificate carries URI names, one spiffe://<domain>/operator/<name> and
// one tag:writ,2026:role:<role> for each role. The zero Operator may do nothing.
type Operator struct {
	Name  string
	Roles []Role
}

const (
	rolePrefix        = "tag:writ,2026:role:"
	firstOperatorLife = 365 * 24 * time.Hour
)

var operatorRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`)

// May reports whether the operator has one of the roles.
func (o Operator) May(any ...Role) bool {
	return slices.ContainsFunc(any, func(r Role) bool { return slices.Contains(o.Roles, r) })
}

// ValidOperator reports whether a name can be an operator's.
func ValidOperator(name string) bool { return operatorRE.MatchString(name) }

func (o Operator) check() error {
	if !operatorRE.MatchString(o.Name) {
		return fmt.Errorf("%.80q is no name for an operator; expected letters, digits, dots and dashes", o.Name)
	}
	if len(o.Roles) == 0 {
		return fmt.Errorf("operator %s has no role; expected some of %v", o.Name, AllRoles())
	}
	for i, r := range o.Roles {
		if !slices.Contains(AllRoles(), r) || slices.Contains(o.Roles[:i], r) {
			return fmt.Errorf("operator %s has role %.40q unknown or twice; expected some of %v", o.Name, r, AllRoles())
		}
	}
	return nil
}

// IssueOperator makes a key and a certificate for an operator. The result is the
// content of the file that --operator takes: certificate, key, and the TLS CA by
// which to know the verifier.
func (k *Keys) IssueOperator(o Operator, life time.Duration, at time.Time) ([]byte, error) {
	return k.issueOperator(o, at.Add(-backdated), at.Add(life))
}

// ReissueOperator is IssueOperator for a name whose certificates up to a time are
// revoked: this one begins after it, however little.
func (k *Keys) ReissueOperator(o Operator, life time.Duration, at, revoked time.Time) ([]byte, error) {
	from := revoked.Truncate(time.Second).Add(time.Second)
	if from.After(at) {
		return nil, fmt.Errorf("issuing an operator's certificate: those of %s up to %s are revoked; try again after that second", o.Name, revoked.UTC().Format(time.RFC3339))
	}
	if b := at.Add(-backdated); b.After(from) {
		from = b
	}
	return k.issueOperator(o, from, at.Add(life))
}

func (k *Keys) issueOperator(o Operator, from, until time.Time) ([]byte, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("issuing an operator's certificate: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("issuing an operator's certificate: %w", err)
	}
	tmpl := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"Writ"}, CommonName: o.Name},
		URIs:      []*url.URL{{Scheme: "spiffe", Host: k.domain, Path: "/operator/" + o.Name}},
		NotBefore: from, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, r := range o.Roles {
		tmpl.URIs = append(tmpl.URIs, &url.URL{Scheme: "tag", Opaque: strings.TrimPrefix(rolePrefix, "tag:") + string(r)})
	}
	der, err := k.operator.sign(tmpl, key.Public())
	if err != nil {
		return nil, fmt.Errorf("issuing an operator's certificate: %w", err)
	}
	private, err := marshalKey(key)
	if err != nil {
		return nil, fmt.Errorf("issuing an operator's certificate: %w", err)
	}
	return slices.Concat(pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: der}), private, k.tls.pem()), nil
}

// OperatorOf reads who a client certificate is for. Only a certificate of a
// connection made with ServerTLS is one of an operator: reading does not verify.
func OperatorOf(cert *x509.Certificate, domain string) (Operator, error) {
	var o Operator
	for _, u := range cert.URIs {
		switch s := u.String(); {
		case strings.HasPrefix(s, rolePrefix):
			o.Roles = append(o.Roles, Role(strings.TrimPrefix(s, rolePrefix)))
		case strings.HasPrefix(s, "spiffe://"+domain+"/operator/") && o.Name == "":
			o.Name = strings.TrimPrefix(s, "spiffe://"+domain+"/operator/")
		default:
			return Operator{}, fmt.Errorf("reading an operator's certificate: unexpected name %.100q", s)
		}
	}
	if err := o.check(); err != nil {
		return Operator{}, fmt.Errorf("reading an operator's certificate: %w", err)
	}
	return o, nil
}

// Identity is what an operator connects with.
type Identity struct {
	Certificate tls.Certificate
	Domain      string
	Pin         Pin // of the verifiers' CA
}

// ParseIdentity reads the content of an operator's file.
func ParseIdentity(b []byte) (*Identity, error) {
	var blocks []*pem.Block
	for rest := b; len(blocks) < 4; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		blocks = append(blocks, block)
	}
	if len(blocks) != 3 || blocks[0].Type != certBlock || blocks[1].Type != privateBlock || blocks[2].Type != certBlock {
		return nil, errors.New("reading an operator's file: expected a certificate, a private key and the CA of the verifiers")
	}
	pair, err := tls.X509KeyPair(pem.EncodeToMemory(blocks[0]), pem.EncodeToMemory(blocks[1]))
	if err != nil {
		return nil, fmt.Errorf("reading an operator's file: %w", err)
	}
	id := &Identity{Certificate: pair}
	if len(pair.Leaf.URIs) > 0 {
		id.Domain = pair.Leaf.URIs[0].Host
	}
	if _, err := OperatorOf(pair.Leaf, id.Domain); err != nil {
		return nil, fmt.Errorf("reading an operator's file: %w", err)
	}
	id.Pin, err = PinOf(pem.EncodeToMemory(blocks[2]))
	return id, err
}
