package appraisal

// Code documents one code of findings.
type Code struct {
	Code    string
	Meaning string
}

// Codes lists every code a finding can have, for docs/findings.md. Events of a
// PCR have a code of their area (see [area]) and one of five suffixes.
func Codes() []Code {
	out := []Code{
		{evidenceMissing, "no evidence was given"},
		{evidenceKey, "the node's enrolled attestation key cannot be read"},
		{quoteChallenge, "the challenge is not one of Writ's"},
		{quoteSignature, "the quote is malformed or not signed by the enrolled key"},
		{quoteKey, "the attestation key is not of Writ's template for this domain and generation"},
		{quoteSigner, "the attestation key is not a primary of the TPM's endorsement hierarchy"},
		{quoteBinding, "the quote was made for another nonce, node, domain, purpose or for other items"},
		{quoteBank, "the quote is over another PCR bank than SHA-256"},
		{quotePCRs, "the PCR values sent along are not those that were signed"},
		{quoteSelection, "the quote leaves out a PCR that the reference set speaks of"},
		{bootClone, "the TPM's counters or clock went back: cleared, restored or copied"},
		{bootChanged, "the boot log changed while the boot lasted"},
		{bootNoLog, "there is no UEFI boot log"},
		{bootMalformed, "the boot log cannot be parsed, or lacks SHA-256 digests"},
		{bootReplay, "the boot log does not replay to the quoted value of a PCR"},
		{osMalformed, "systemd's measurement log cannot be parsed"},
		{refNone, "no reference set is in force for the node's class"},
		{refClass, "the reference set is for another class"},
		{refValidity, "the reference set is not valid at this time"},
		{refSection, "the reference set lacks something that a required claim rests on"},
		{refParts, "the reference set names a set or an allow list that is not in force or not at hand"},
		{refPCR, "the reference set says nothing of a quoted PCR"},
		{keyCertificate, "the key of proof of possession is not proven to live in this TPM, or not for this node and boot"},
		{keyNotResident, "the reference set demands a key of proof of possession in the TPM, and it is in software"},
		{tpmCertificate, "no EK certificate, or one that chains to no configured root"},
		{tpmVendor, "the TPM's maker is not one the reference set accepts"},
		{tpmIAK, "the device's IAK and IDevID certificates chain to no configured root, are not of one device, or do not vouch for the attestation key"},
		{tpmDeviceMaker, "the device's maker is not one the reference set accepts"},
		{secureBootOff, "Secure Boot is off and the reference set requires it"},
		{secureBootUnknown, "the Secure Boot state was not measured in a form that can be checked"},
		{sbatLevel, "shim's SBAT level is below the pinned generations, or not proven"},
		{firmwareVersion, "the firmware's version is below the pinned one, or not proven"},
		{imaNoLog, "the reference set judges files and there is no IMA list"},
		{imaMalformed, "the IMA list cannot be parsed"},
		{imaReplay, "no prefix of the IMA list replays to the quoted value of PCR 10"},
		{imaAggregate, "the IMA list does not begin with this boot's boot_aggregate"},
		{imaViolation, "more files changed while they were measured than the set tolerates"},
		{imaUnknown, "a measured file is not in the reference set"},
		{imaVulnerable, "a measured file is known to be vulnerable"},
		{imaDenied, "a measured file is on a deny list"},
		{imaWeak, "a file was measured with a hash that identifies nothing (SHA-1, MD5)"},
		{imaPadded, "the kernel extends SHA-1 into the SHA-256 bank, which proves nothing"},
		{imaBuffer, "the kernel measured a key, command line or other buffer that the set does not know"},
	}
	seen := map[string]bool{}
	for pcr := range 24 {
		a := area(pcr)
		if seen[a] {
			continue
		}
		seen[a] = true
		out = append(out, Code{a + unknownEvent, "an event is not where the reference set allows it"},
			Code{a + missingEvent, "an event the reference set expects did not happen"},
			Code{a + vulnerableEvent, "an event is known to be vulnerable"},
			Code{a + deniedEvent, "an event is on a deny list"},
			Code{a + unknownValue, "the PCR has a value that a quote-only set does not know"})
	}
	return append(out,
		Code{ruleFailed + "NAME", "a rule of the reference set does not hold; it lowers the claim it names"},
		Code{claimRequired, "a claim the reference set requires is not affirming, for the reasons above"},
		Code{tooMany, "more findings of the same kinds were left out"})
}
