package swtpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"sync/atomic"
	"time"
)

// CA stands in for a TPM maker: a root, which verifiers are given, and an issuer,
// whose certificate the TPMs carry in NV.
type CA struct {
	root, issuer       *x509.Certificate
	rootKey, issuerKey *ecdsa.PrivateKey
	from, until        time.Time
	address            string
	name               string
	devices            atomic.Uint64
}

// NewCA makes a TPM maker of that name. Its certificates are valid from a day
// before at for ten years.
func NewCA(name string, at time.Time) (*CA, error) {
	ca := &CA{name: name, from: at.Add(-24 * time.Hour), until: at.AddDate(10, 0, 0)}
	if err := ca.make(name); err != nil {
		return nil, fmt.Errorf("making TPM maker %q: %w", name, err)
	}
	return ca, nil
}

func (ca *CA) make(name string) (err error) {
	if ca.rootKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	if ca.issuerKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	root := ca.template(name + " root")
	if ca.root, err = certify(root, root, ca.rootKey.Public(), ca.rootKey); err != nil {
		return err
	}
	ca.issuer, err = certify(ca.template(name+" issuer"), ca.root, ca.issuerKey.Public(), ca.rootKey)
	return err
}

func (ca *CA) template(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name, Organization: []string{ca.name}},
		NotBefore:             ca.from,
		NotAfter:              ca.until,
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
}

// Root returns the certificate to trust.
func (ca *CA) Root() *x509.Certificate { return ca.root }

// RootPEM returns Root in PEM, as verifiers' bundles have it.
func (ca *CA) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.root.Raw})
}

// Publish makes the CA write address into EK certificates made from now on, as
// where its issuer's certificate is found, and returns that (DER).
func (ca *CA) Publish(address string) []byte {
	ca.address = address
	return ca.issuer.Raw
}

// certify signs template, giving it a random serial number.
func certify(template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Fault is something wrong with a TPM's certificates. The zero value is none.
type Fault int

// The faults a TPM can be manufactured with.
const (
	FaultNone          Fault = iota
	FaultWrongCA             // issued by a maker of the same name that nobody trusts
	FaultExpired             // expired an hour before the CA was made
	FaultMissingEKU          // without extended key usage 2.23.133.8.1
	FaultIsCA                // a CA's certificate
	FaultOtherKey            // issued for another key than the TPM's
	FaultNoCertificate       // none in NV
	FaultOtherDevice         // the IDevID's names another device than the IAK's
	FaultSigns               // the IAK's does not say that the key attests: an IDevID's in its place
)

// ekCertificate issues an EK certificate as makers do: an empty subject, a
// critical alternative name that names the TPM, and the EKU of EK certificates.
func (ca *CA) ekCertificate(key crypto.PublicKey, fault Fault) ([]byte, error) {
	san, err := tpmName()
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{
		NotBefore:             ca.from,
		NotAfter:              ca.until,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageKeyAgreement,
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}},
		ExtraExtensions:       []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}},
	}
	if _, ok := key.(*rsa.PublicKey); ok {
		c.KeyUsage = x509.KeyUsageKeyEncipherment
	}
	if ca.address != "" {
		c.IssuingCertificateURL = []string{ca.address}
	}
	return ca.issue(c, key, fault)
}

// issue signs a certificate with a fault in it.
func (ca *CA) issue(c *x509.Certificate, key crypto.PublicKey, fault Fault) (_ []byte, err error) {
	signer := ca.issuerKey
	switch fault {
	case FaultWrongCA:
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case FaultExpired:
		c.NotBefore, c.NotAfter = ca.from.Add(-48*time.Hour), ca.from.Add(-time.Hour)
	case FaultMissingEKU:
		c.UnknownExtKeyUsage = nil
	case FaultIsCA:
		c.IsCA = true
	case FaultOtherKey:
		key, err = otherKey(key)
	}
	if err != nil {
		return nil, err
	}
	issuer := *ca.issuer // CreateCertificate wants parent and signer to match
	issuer.PublicKey = signer.Public()
	cert, err := certify(c, &issuer, key, signer)
	if err != nil {
		return nil, err
	}
	return cert.Raw, nil
}

// otherKey returns a key of the same kind as key.
func otherKey(key crypto.PublicKey) (crypto.PublicKey, error) {
	switch like := key.(type) {
	case *rsa.PublicKey:
		k, err := rsa.GenerateKey(rand.Reader, like.N.BitLen())
		if err != nil {
			return nil, err
		}
		return k.Public(), nil
	case *ecdsa.PublicKey:
		k, err := ecdsa.GenerateKey(like.Curve, rand.Reader)
		if err != nil {
			return nil, err
		}
		return k.Public(), nil
	}
	return nil, fmt.Errorf("key of type %T", key)
}

// tpmName is a GeneralNames with one directoryName of the three attributes of a
// TPM (EK Credential Profile, 3.2.9). The manufacturer is none of the TCG's.
func tpmName() ([]byte, error) {
	name, err := asn1.Marshal(pkix.RDNSequence{
		{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 1}, Value: "id:57524954"}}, // "WRIT"
		{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 2}, Value: "swtpm"}},
		{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 3}, Value: "id:00000001"}},
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}})
}
