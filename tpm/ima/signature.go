package ima

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/writ-attestation/writ/tpm"
)

// A Signature is what security.ima holds of a signed file, in its second
// version (struct signature_v2_hdr of the kernel's security/integrity/integrity.h).
type Signature struct {
	Alg   tpm.Alg // of the digest that was signed
	KeyID uint32  // the end of the signer's key identifier: a hint, not signed
	Value []byte  // PKCS #1 v1.5, or an ASN.1 ECDSA signature
}

const (
	digitalSignature = 0x03 // EVM_IMA_XATTR_DIGSIG
	signatureV2      = 0x02
	signatureHeader  = 9 // type, version, algorithm, key id [4], size [2]
)

// signedAlgs are the kernel's numbers (enum hash_algo) of hashes whose
// signatures prove anything.
var signedAlgs = map[byte]tpm.Alg{4: tpm.AlgSHA256, 5: tpm.AlgSHA384, 6: tpm.AlgSHA512}

// ParseSignature reads the attribute. EVM's portable signatures and those of
// fs-verity digests are not of this form: they sign something else than the
// digest of a file.
func ParseSignature(b []byte) (*Signature, error) {
	if len(b) < signatureHeader {
		return nil, fmt.Errorf("reading security.ima: %d bytes, expected at least %d", len(b), signatureHeader)
	}
	if b[0] != digitalSignature || b[1] != signatureV2 {
		return nil, fmt.Errorf("reading security.ima: type %#02x version %d, expected a file signature (type 0x03) of version 2", b[0], b[1])
	}
	s := &Signature{Alg: signedAlgs[b[2]], KeyID: binary.BigEndian.Uint32(b[3:])}
	if s.Alg == 0 {
		return nil, fmt.Errorf("reading security.ima: hash algorithm %d proves nothing; sign with sha256", b[2])
	}
	if n := int(binary.BigEndian.Uint16(b[7:])); n == 0 || n != len(b)-signatureHeader {
		return nil, fmt.Errorf("reading security.ima: a signature of %d bytes announced, %d found", n, len(b)-signatureHeader)
	}
	s.Value = bytes.Clone(b[signatureHeader:])
	return s, nil
}

// Marshal writes the attribute.
func (s *Signature) Marshal() []byte {
	b := []byte{digitalSignature, signatureV2, 0}
	for n, alg := range signedAlgs {
		if alg == s.Alg {
			b[2] = n
		}
	}
	b = binary.BigEndian.AppendUint32(b, s.KeyID)
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.Value)))
	return append(b, s.Value...)
}

// Verify reports whether the key signed this digest of a file. One made with
// another hash than the signature names is not what was signed.
func (s *Signature) Verify(key crypto.PublicKey, alg tpm.Alg, digest []byte) bool {
	h, ok := alg.Hash()
	if !ok || alg != s.Alg || len(digest) != h.Size() {
		return false
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, h, digest, s.Value) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest, s.Value)
	}
	return false
}

// A Key signs files. Signatures name it by one of its IDs.
type Key struct {
	Public crypto.PublicKey // *rsa.PublicKey or *ecdsa.PublicKey
	IDs    []uint32
}

// ParseKey reads one PEM block, CERTIFICATE or PUBLIC KEY. Of a certificate the
// key alone counts, as in the kernel's keyrings: its dates and its issuer say
// nothing of what the key signed.
func ParseKey(text string) (*Key, error) {
	b, rest := pem.Decode([]byte(text))
	if b == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("reading the file signer's key: expected one PEM block")
	}
	var k Key
	spki := b.Bytes
	switch b.Type {
	case "CERTIFICATE":
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading the file signer's certificate: %w", err)
		}
		spki = c.RawSubjectPublicKeyInfo
		k.id(c.SubjectKeyId)
	case "PUBLIC KEY":
	default:
		return nil, fmt.Errorf("reading the file signer's key: PEM block %.40q, expected CERTIFICATE or PUBLIC KEY", b.Type)
	}
	var err error
	if k.Public, err = x509.ParsePKIXPublicKey(spki); err != nil {
		return nil, fmt.Errorf("reading the file signer's key: %w", err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(spki, &info); err != nil {
		return nil, fmt.Errorf("reading the file signer's key: %w", err)
	}
	sum := sha1.Sum(info.Key.Bytes) // RFC 5280 4.2.1.2 (1), what evmctl writes
	k.id(sum[:])
	if err := k.strong(); err != nil {
		return nil, err
	}
	return &k, nil
}

// id notes the last four bytes of a subject key identifier.
func (k *Key) id(ski []byte) {
	if len(ski) < 4 {
		return
	}
	if id := binary.BigEndian.Uint32(ski[len(ski)-4:]); !slices.Contains(k.IDs, id) {
		k.IDs = append(k.IDs, id)
	}
}

func (k *Key) strong() error {
	switch p := k.Public.(type) {
	case *rsa.PublicKey:
		if n := p.N.BitLen(); n < 2048 || n > 8192 {
			return fmt.Errorf("reading the file signer's key: RSA of %d bits, expected 2048 to 8192", n)
		}
		return nil
	case *ecdsa.PublicKey:
		if p.Curve == elliptic.P256() || p.Curve == elliptic.P384() || p.Curve == elliptic.P521() {
			return nil
		}
	}
	return fmt.Errorf("reading the file signer's key: %T of a kind that signs no files; use RSA or ECDSA on P-256, P-384 or P-521", k.Public)
}
