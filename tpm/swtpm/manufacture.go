package swtpm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm"
)

// Options is how a TPM is manufactured. The zero value has a P-256 endorsement
// key with a good certificate.
type Options struct {
	RSA   bool     // also an RSA-2048 endorsement key (L-1); takes 20 to 60 ms
	EKs   []string // labels of [tpm.EKTemplates] to make instead of L-2; RSA-3072 (H-6) takes up to a second
	Fault Fault    // in every EK certificate

	IAK      string // label of [tpm.DeviceTemplates]: also an IAK and an IDevID, certified by the CA as the maker of a device
	IAKFault Fault  // in their certificates
}

const nvChain = 0x01c00100

// ekHandles are the persistent handles EKs are kept at by template.
var ekHandles = map[string]tpm2.TPMHandle{
	"L-1": 0x81010001, "L-2": 0x81010002, "H-1": 0x81010012, "H-2": 0x81010014, "H-3": 0x81010016, "H-6": 0x8101001c,
}

// Manufacture makes a TPM in dir, which is created if need be and should be
// empty: endorsement keys at their persistent handles, certificates issued by
// ca, and its issuer's, in NV. It takes some 10 ms. Any number may run at once.
func Manufacture(ctx context.Context, dir string, ca *CA, opts Options) error {
	if err := manufacture(ctx, dir, ca, opts); err != nil {
		return fmt.Errorf("manufacturing software TPM: %w", err)
	}
	return nil
}

func manufacture(ctx context.Context, dir string, ca *CA, opts Options) (err error) {
	i, err := Start(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.Close()) }()
	labels := opts.EKs
	if len(labels) == 0 {
		labels = []string{"L-2"}
	}
	if opts.RSA {
		labels = append(slices.Clone(labels), "L-1")
	}
	for _, t := range tpm.EKTemplates() {
		if !slices.Contains(labels, t.Label) {
			continue
		}
		if err := i.installEK(t, ca, opts.Fault); err != nil {
			return fmt.Errorf("EK %s: %w", t.Label, err)
		}
	}
	if err := i.writeNV(nvChain, ca.issuer.Raw); err != nil {
		return err
	}
	if opts.IAK != "" {
		if err := i.installIAK(opts.IAK, ca, opts.IAKFault); err != nil {
			return fmt.Errorf("IAK %s: %w", opts.IAK, err)
		}
	}
	_, err = tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(i)
	return err
}

// installEK derives an endorsement key, keeps it at its persistent handle and
// writes a certificate for it.
func (i *Instance) installEK(t tpm.EKTemplate, ca *CA, fault Fault) error {
	ek, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.BytesAs2B[tpm2.TPMTPublic](t.Public),
	}.Execute(i)
	if err != nil {
		return err
	}
	_, err = tpm2.EvictControl{
		Auth:             tpm2.TPMRHOwner,
		ObjectHandle:     &tpm2.NamedHandle{Handle: ek.ObjectHandle, Name: ek.Name},
		PersistentHandle: ekHandles[t.Label],
	}.Execute(i)
	if err != nil {
		return err
	}
	if _, err := (tpm2.FlushContext{FlushHandle: ek.ObjectHandle}).Execute(i); err != nil {
		return err
	}
	if fault == FaultNoCertificate {
		return nil
	}
	public, err := tpm.ParsePublic(ek.OutPublic.Bytes())
	if err != nil {
		return err
	}
	der, err := ca.ekCertificate(public.Key(), fault)
	if err != nil {
		return err
	}
	return i.writeNV(tpm2.TPMHandle(t.NV), der)
}

// writeNV defines an NV index as makers do and writes b to it.
func (i *Instance) writeNV(index tpm2.TPMHandle, b []byte) error {
	platform := tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}
	_, err := tpm2.NVDefineSpace{AuthHandle: platform, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: index,
		NameAlg: tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{
			PPWrite: true, WriteDefine: true, PPRead: true, OwnerRead: true, AuthRead: true, NoDA: true, PlatformCreate: true,
		},
		DataSize: uint16(len(b)),
	})}.Execute(i)
	if err != nil {
		return fmt.Errorf("defining NV index 0x%08x: %w", uint32(index), err)
	}
	const chunk = 1024
	for at := 0; at < len(b); at += chunk {
		public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(i) // the first write changes the name
		if err == nil {
			_, err = tpm2.NVWrite{
				AuthHandle: platform,
				NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
				Data:       tpm2.TPM2BMaxNVBuffer{Buffer: b[at:min(at+chunk, len(b))]},
				Offset:     uint16(at),
			}.Execute(i)
		}
		if err != nil {
			return fmt.Errorf("writing NV index 0x%08x: %w", uint32(index), err)
		}
	}
	return nil
}
