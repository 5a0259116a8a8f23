package eventlog

import "fmt"

// A Type is the event type of a record (PFP 10.4.1, table 27). It is not
// covered by the event's digest: whoever holds the log can change it.
type Type uint32

// Event types that this module gives a meaning to.
const (
	NoAction              Type = 0x00000003
	Separator             Type = 0x00000004
	Action                Type = 0x00000005
	EventTag              Type = 0x00000006
	SCRTMContents         Type = 0x00000007
	SCRTMVersion          Type = 0x00000008
	IPL                   Type = 0x0000000D
	OmitBootDeviceEvents  Type = 0x00000012
	VariableDriverConfig  Type = 0x80000001
	VariableBoot          Type = 0x80000002
	BootServicesApp       Type = 0x80000003
	BootServicesDriver    Type = 0x80000004
	RuntimeServicesDriver Type = 0x80000005
	GPTEvent              Type = 0x80000006
	EFIAction             Type = 0x80000007
	PlatformFirmwareBlob  Type = 0x80000008
	PlatformFirmwareBlob2 Type = 0x8000000A
	VariableBoot2         Type = 0x8000000C
	HCRTM                 Type = 0x80000010
	VariableAuthority     Type = 0x800000E0
	handoffTables         Type = 0x80000009
	handoffTables2        Type = 0x8000000B
)

var typeNames = map[Type]string{
	0x00000000:            "EV_PREBOOT_CERT",
	0x00000001:            "EV_POST_CODE",
	0x00000002:            "EV_UNUSED",
	NoAction:              "EV_NO_ACTION",
	Separator:             "EV_SEPARATOR",
	Action:                "EV_ACTION",
	EventTag:              "EV_EVENT_TAG",
	SCRTMContents:         "EV_S_CRTM_CONTENTS",
	SCRTMVersion:          "EV_S_CRTM_VERSION",
	0x00000009:            "EV_CPU_MICROCODE",
	0x0000000A:            "EV_PLATFORM_CONFIG_FLAGS",
	0x0000000B:            "EV_TABLE_OF_DEVICES",
	0x0000000C:            "EV_COMPACT_HASH",
	IPL:                   "EV_IPL",
	0x0000000E:            "EV_IPL_PARTITION_DATA",
	0x0000000F:            "EV_NONHOST_CODE",
	0x00000010:            "EV_NONHOST_CONFIG",
	0x00000011:            "EV_NONHOST_INFO",
	OmitBootDeviceEvents:  "EV_OMIT_BOOT_DEVICE_EVENTS",
	0x00000013:            "EV_POST_CODE2",
	0x80000000:            "EV_EFI_EVENT_BASE",
	VariableDriverConfig:  "EV_EFI_VARIABLE_DRIVER_CONFIG",
	VariableBoot:          "EV_EFI_VARIABLE_BOOT",
	BootServicesApp:       "EV_EFI_BOOT_SERVICES_APPLICATION",
	BootServicesDriver:    "EV_EFI_BOOT_SERVICES_DRIVER",
	RuntimeServicesDriver: "EV_EFI_RUNTIME_SERVICES_DRIVER",
	GPTEvent:              "EV_EFI_GPT_EVENT",
	EFIAction:             "EV_EFI_ACTION",
	PlatformFirmwareBlob:  "EV_EFI_PLATFORM_FIRMWARE_BLOB",
	handoffTables:         "EV_EFI_HANDOFF_TABLES",
	PlatformFirmwareBlob2: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
	handoffTables2:        "EV_EFI_HANDOFF_TABLES2",
	VariableBoot2:         "EV_EFI_VARIABLE_BOOT2",
	0x8000000D:            "EV_EFI_GPT_EVENT2",
	HCRTM:                 "EV_EFI_HCRTM_EVENT",
	VariableAuthority:     "EV_EFI_VARIABLE_AUTHORITY",
	0x800000E1:            "EV_EFI_SPDM_FIRMWARE_BLOB",
	0x800000E2:            "EV_EFI_SPDM_FIRMWARE_CONFIG",
	0x800000E3:            "EV_EFI_SPDM_DEVICE_POLICY",
	0x800000E4:            "EV_EFI_SPDM_DEVICE_AUTHORITY",
}

// String returns the TCG name ("EV_SEPARATOR"), or the number in hexadecimal
// ("0x00008401") for a type it does not know, as vendors invent them.
func (t Type) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprintf("0x%08x", uint32(t))
}
