import hashlib, json, hmac

BOOT = "3f0c2d9c6d7b4a0e9c1f5b8a7e6d5c4b"
records = [
    (11, "phase", "enter-initrd", None),
    (15, "volume-key", "cryptsetup:root:0a1b2c3d-1111-2222-3333-444455556666", b"volume key"),
    (11, "phase", "leave-initrd", None),
    (15, "machine-id", "machine-id:b3b1e2a4c5d64e7f8a9b0c1d2e3f4a5b", None),
    (15, "filesystem", "file-system:/:9d2f6c1e-aaaa-bbbb-cccc-ddddeeeeffff:ext4:root", None),
    (11, "phase", "sysinit", None),
    (11, "phase", "ready", None),
]
algs = ["sha1", "sha256", "sha384"]
out, time = b"", 4_213_902
zero = {a: {} for a in algs}
uki = json.load(open("../../../testdata/boots/d-uki/pcrs.json"))
later = {a: ({"11": bytes.fromhex(uki[a]["11"])} if a in uki else {}) for a in algs}
for pcr, kind, text, key in records:
    digests = []
    for a in algs:
        d = hmac.new(key, text.encode(), a).digest() if key else hashlib.new(a, text.encode()).digest()
        digests.append({"hashAlg": a, "digest": d.hex()})
        for bank in (zero[a], later[a]):
            old = bank.get(str(pcr), bytes(len(d)))
            bank[str(pcr)] = hashlib.new(a, old + d).digest()
    time += 731_117
    r = {"pcr": pcr, "digests": digests, "content_type": "systemd",
         "content": {"string": text, "bootId": BOOT, "timestamp": time, "eventType": kind}}
    out += b"\x1e" + json.dumps(r, separators=(",", ":")).encode() + b"\n"
open("boot.log", "wb").write(out)
show = lambda banks: {a: {p: v.hex() for p, v in b.items()} for a, b in banks.items()}
json.dump({"zero": show(zero), "d-uki": show(later)}, open("boot.json", "w"), indent=1)
