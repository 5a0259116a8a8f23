// Package ekroots is the bundle of TPM makers' root certificates that Writ
// ships. Who selects it trusts every maker in it; nothing selects it unasked.
package ekroots

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"github.com/writ-attestation/writ/tpm"
)

// Version is the bundle's date, Source where its certificates were collected.
const (
	Version = "2026-04-11"
	Source  = "github.com/loicsikidi/tpm-ca-certificates@366e970 (BSD-3-Clause)"
)

var (
	//go:embed roots.pem
	rootsPEM []byte
	//go:embed roots.tsv
	rootsList string
	//go:embed intermediates.pem
	intermediatesPEM []byte
)

// vendors are the TPM makers in the TCG's vendor ID registry.
var vendors = map[string]string{
	"AMD": "AMD", "ANT": "Ant Group", "ATML": "Atmel", "BRCM": "Broadcom", "CSCO": "Cisco", "FLYS": "Flyslice",
	"GOOG": "Google", "HISI": "Huawei", "HPE": "HPE", "HPI": "HPI", "IBM": "IBM", "IFX": "Infineon", "INTC": "Intel",
	"LEN": "Lenovo", "MSFT": "Microsoft", "NSG": "NSING", "NSM": "National Semiconductor", "NTC": "Nuvoton", "NTZ": "Nationz",
	"NVDA": "Nvidia", "QCOM": "Qualcomm", "ROCC": "Fuzhou Rockchip", "SEAL": "Wisekey", "SECE": "SecEdge", "SMSC": "SMSC",
	"SMSN": "Samsung", "SNS": "Sinosun", "STM": "STMicroelectronics", "TXN": "Texas Instruments", "WEC": "Winbond",
}

// Root is a maker's certificate that the bundle trusts.
type Root struct {
	Vendor string // TCG vendor id: "IFX"
	Name   string
	Source string // URL its maker publishes it at
	SHA256 string // hexadecimal, of DER
	DER    []byte
}

// Roots returns the bundle's roots by vendor. Every one has the fingerprint
// that the bundle's list records; another certificate in its place is an error.
func Roots() ([]Root, error) {
	held := map[string][]byte{}
	for _, der := range certificates(rootsPEM) {
		sum := sha256.Sum256(der)
		held[hex.EncodeToString(sum[:])] = der
	}
	var out []Root
	lines := bufio.NewScanner(strings.NewReader(rootsList))
	for lines.Scan() {
		f := strings.Split(lines.Text(), "\t")
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		if len(f) != 4 || held[f[1]] == nil {
			return nil, fmt.Errorf("reading the vendor bundle %s: no certificate for %q", Version, lines.Text())
		}
		out = append(out, Root{Vendor: f[0], SHA256: f[1], Source: f[2], Name: f[3], DER: held[f[1]]})
		delete(held, f[1])
	}
	if len(held) > 0 {
		return nil, fmt.Errorf("reading the vendor bundle %s: %d certificates are not in its list", Version, len(held))
	}
	return out, nil
}

// Intermediates returns the makers' other CA certificates, DER. They complete
// chains and vouch for nothing by themselves.
func Intermediates() [][]byte { return certificates(intermediatesPEM) }

func certificates(text []byte) (out [][]byte) {
	for b, rest := pem.Decode(text); b != nil; b, rest = pem.Decode(rest) {
		out = append(out, bytes.Clone(b.Bytes))
	}
	return out
}

// Missing lists the makers of the TCG's registry that the bundle has no root of.
func Missing() (ids []string) {
	for id := range vendors {
		if !has(id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func has(vendor string) bool { return strings.Contains(rootsList, "\n"+vendor+"\t") }

// Absent says that the bundle has no root of the maker that an EK certificate
// names; it is "" if it has one.
func Absent(ek *x509.Certificate) string {
	vendor, _, _ := tpm.Vendor(ek)
	switch name, known := vendors[vendor]; {
	case vendor == "":
		return "the certificate names no TPM maker"
	case has(vendor):
		return ""
	case known:
		return fmt.Sprintf("no root for vendor %s (%s) in bundle version %s", vendor, name, Version)
	}
	return fmt.Sprintf("no root for vendor %.40q, which is not in the TCG registry, in bundle version %s", vendor, Version)
}
