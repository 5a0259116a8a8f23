package rules

// Boot is what the boot log proves, in PCRs whose quoted value it replays to; a fact
// of another PCR, or one that no digest covers, is not there. An empty list says that
// there was nothing of the kind; where its PCRs are not proven, [Facts.Unproven] names
// it and it says nothing at all.
type Boot struct {
	FirmwareVersion string        `cel:"firmware_version" json:"firmware_version"` // "": not proven
	Locality        int64         `cel:"locality" json:"locality"`                 // that PCR 0 started at
	Exited          bool          `cel:"exited" json:"exited"`                     // firmware handed over
	DMAOff          bool          `cel:"dma_protection_off" json:"dma_protection_off"`
	Debugger        bool          `cel:"debugger" json:"debugger"`
	Firmware        []Measurement `cel:"firmware" json:"firmware"`         // PCR 0
	Drivers         []Measurement `cel:"drivers" json:"drivers"`           // PCR 2: drivers and option ROMs
	Applications    []Measurement `cel:"applications" json:"applications"` // PCR 4: Authenticode digests
	MOK             []Measurement `cel:"mok" json:"mok"`                   // PCR 14
	Files           []Measurement `cel:"files" json:"files"`               // PCR 9: what GRUB read, initrds
	Other           []Measurement `cel:"other" json:"other"`               // nobody explained these
	PK              []string      `cel:"pk" json:"pk"`                     // SHA-256 of certificates, as all below
	KEK             []string      `cel:"kek" json:"kek"`
	DB              []string      `cel:"db" json:"db"`
	DBX             []string      `cel:"dbx" json:"dbx"`                 // certificates and digests of programs
	Authorities     []string      `cel:"authorities" json:"authorities"` // what allowed programs to run: certificates and digests
	SBAT            string        `cel:"sbat_level" json:"sbat_level"`   // shim's revocations
	Variables       []Variable    `cel:"variables" json:"variables"`     // Boot####, BootOrder and others
	Disks           []Disk        `cel:"disks" json:"disks"`             // partition tables
	Commands        []string      `cel:"commands" json:"commands"`       // of the boot loader, in order
	CommandLines    []string      `cel:"command_lines" json:"command_lines"`
	Sections        []Section     `cel:"sections" json:"sections"`     // of a unified kernel image
	Separators      []int64       `cel:"separators" json:"separators"` // PCRs that firmware closed without an error
	Actions         []string      `cel:"actions" json:"actions"`
}

// Measurement is an event that proves a digest and no more.
type Measurement struct {
	Event  int64  `cel:"event" json:"event"`
	PCR    int64  `cel:"pcr" json:"pcr"`
	Early  bool   `cel:"early" json:"early"` // firmware measured it
	Digest string `cel:"digest" json:"digest"`
}

// Variable is a UEFI variable; Name is "" where only the value is proven.
type Variable struct {
	PCR   int64  `cel:"pcr" json:"pcr"`
	Name  string `cel:"name" json:"name"`
	GUID  string `cel:"guid" json:"guid"`
	Value string `cel:"value" json:"value"` // hexadecimal
}

// Disk is a partition table.
type Disk struct {
	GUID       string   `cel:"guid" json:"guid"`
	Partitions []string `cel:"partitions" json:"partitions"` // their GUIDs
}

// Section is a section of a unified kernel image.
type Section struct {
	Name   string `cel:"name" json:"name"`
	Digest string `cel:"digest" json:"digest"`
}
