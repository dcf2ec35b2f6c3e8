// What an image file says beside its pixels: format, size, colours, EXIF and ICC profile; and how to put the last two
// into a file that a canvas wrote.
//
// EXIF is kept as the TIFF structure that all three formats wrap. It leaves upright and without its thumbnail, which
// would show the dark picture.

const ORIENTATION = 0x0112;
const THUMBNAILS = [[0x0201, 0x0202], [0x0111, 0x0117]]; // where one lies and its length: a JPEG file, or strips of pixels
const SHORT = 3; // a type of values; those of four bytes are the other one here
const latin = (bytes) => String.fromCharCode(...bytes);
const bytesOf = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));

/**
 * @typedef {object} Metadata
 * @property {"image/jpeg" | "image/png" | "image/webp"} type
 * @property {number} width before the EXIF orientation is obeyed
 * @property {number} height
 * @property {boolean} grey the file has no colour channels
 * @property {Uint8Array | null} exif a TIFF structure
 * @property {number} atExif the position of the four letters in the file that say that this is EXIF
 * @property {Uint8Array | null} profile an ICC profile
 */

/**
 * Read the head of an image file.
 *
 * @param {Uint8Array} file
 * @returns {Promise<Metadata | null>} null: it is neither JPEG nor PNG nor WebP, or has no size
 */
export async function readMetadata(file) {
  try {
    const read = latin(file.subarray(0, 3)) === "\xff\xd8\xff" ? readJpeg
      : latin(file.subarray(0, 8)) === "\x89PNG\r\n\x1a\n" ? readPng
        : latin(file.subarray(0, 4)) === "RIFF" && latin(file.subarray(8, 12)) === "WEBP" ? readWebp : () => null;
    const found = await read(file);
    return found?.width && found.height ? found : null;
  } catch (error) {
    if (error instanceof RangeError) return null; // a file that ends in its head
    throw error;
  }
}

/**
 * Put EXIF and ICC profile into a JPEG, PNG or WebP file that has none; those that it has are replaced.
 *
 * @param {Uint8Array} file
 * @param {Metadata} metadata of the input
 * @returns {Promise<Blob>}
 */
export async function withMetadata(file, {exif, profile}) {
  const {type} = await readMetadata(file);
  const kept = exif && upright(exif), space = profile && latin(profile.subarray(16, 20));
  const parts = await {"image/jpeg": writeJpeg, "image/png": writePng, "image/webp": writeWebp}[type](file, kept,
    space === "RGB " ? profile : null); // what the browser writes is RGB, whatever it has read
  return new Blob(parts, {type});
}

/** Return a copy of EXIF with the orientation 1 and without thumbnail; null if it is damaged. */
export function upright(exif) {
  const bytes = exif.slice();
  return inTiff(bytes, ({u16, u32, entries, set16, set32}) => {
    const first = u32(4), atNext = first + 2 + 12 * u16(first);
    for (const entry of entries(first)) if (u16(entry) === ORIENTATION) set16(entry + 8, 1);
    const second = u32(atNext);
    if (second) {
      const valuesOf = (tag) => {
        const entry = entries(second).find((found) => u16(found) === tag);
        if (!entry) return [];
        const count = u32(entry + 4), [read, size] = u16(entry + 2) === SHORT ? [u16, 2] : [u32, 4];
        const from = count * size > 4 ? u32(entry + 8) : entry + 8;
        return Array.from({length: count}, (_, i) => read(from + size * i));
      };
      for (const [tag, lengthTag] of THUMBNAILS) {
        const lengths = valuesOf(lengthTag);
        valuesOf(tag).forEach((at, i) => bytes.fill(0, at, at + lengths[i]));
      }
      set32(atNext, 0);
    }
    return bytes;
  });
}

/** Return the orientation that EXIF names, from 1 (upright) to 8; 1 if it names none. */
export function orientationOf(exif) {
  const named = exif && inTiff(exif, ({u16, u32, entries}) => {
    const entry = entries(u32(4)).find((found) => u16(found) === ORIENTATION);
    return entry && u16(entry + 8);
  });
  return named >= 1 && named <= 8 ? named : 1;
}

/**
 * Return a file whose EXIF no decoder finds. Browsers differ in the formats whose orientation they obey, so the page
 * obeys it itself.
 *
 * @param {File} file
 * @param {Metadata} metadata of the file
 * @returns {Blob}
 */
export function withoutExif(file, {type, exif, atExif}) {
  if (!exif) return file.slice(0, file.size, type);
  const name = bytesOf("noNe"), parts = [file.slice(0, atExif), name];
  let rest = atExif + 4;
  if (type === "image/png") {
    const crc = new DataView(new ArrayBuffer(4));
    crc.setUint32(0, crc32(joined([name, exif])));
    parts.push(exif, crc);
    rest += exif.length + 4;
  }
  return new Blob([...parts, file.slice(rest)], {type});
}

/** Let a function read and write a TIFF structure; null if it reaches over its end. */
function inTiff(bytes, work) {
  const view = viewOf(bytes);
  try {
    const little = latin(bytes.subarray(0, 2)) === "II";
    const u16 = (at) => view.getUint16(at, little), u32 = (at) => view.getUint32(at, little);
    return work({
      u16, u32,
      set16: (at, value) => view.setUint16(at, value, little),
      set32: (at, value) => view.setUint32(at, value, little),
      entries: (directory) => Array.from({length: u16(directory)}, (_, i) => directory + 2 + 12 * i),
    });
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
}

function* jpegSegments(file) { // [marker, position of the marker, position of the content, end]
  const view = viewOf(file);
  for (let at = 2; at + 4 <= file.length;) {
    const marker = file[at + 1];
    if (file[at] !== 0xff || marker === 0xda) return;
    const end = at + 2 + view.getUint16(at + 2);
    yield [marker, at, at + 4, end];
    at = end;
  }
}

function readJpeg(file) {
  const found = {type: "image/jpeg", exif: null, profile: null};
  const profile = [], view = viewOf(file);
  for (const [marker, , at, end] of jpegSegments(file)) {
    const name = latin(file.subarray(at, at + 12));
    if (marker === 0xe1 && name.startsWith("Exif\0\0") && !found.exif) Object.assign(found, {exif: file.slice(at + 6, end), atExif: at});
    if (marker === 0xe2 && name === "ICC_PROFILE\0") profile[file[at + 12]] = file.slice(at + 14, end);
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      Object.assign(found, {height: view.getUint16(at + 1), width: view.getUint16(at + 3), grey: file[at + 5] === 1});
    }
  }
  if (profile.length) found.profile = joined(profile.filter(Boolean));
  return found;
}

async function writeJpeg(file, exif, profile) {
  const parts = [file.slice(0, 2)], most = 65533;
  let rest = 2;
  for (const [marker, at, content, end] of jpegSegments(file)) { // JFIF stays first; other metadata of the canvas goes
    if (marker === 0xe0) parts.push(file.slice(at, end));
    else if (![0xe1, 0xe2].includes(marker)) break;
    rest = Math.max(end, content);
  }
  const segment = (marker, ...content) => {
    const body = joined(content), length = body.length + 2;
    parts.push(Uint8Array.of(0xff, marker, length >> 8, length & 255), body);
  };
  if (exif && exif.length + 8 <= most) segment(0xe1, bytesOf("Exif\0\0"), exif);
  const step = most - 16, count = Math.ceil((profile?.length ?? 0) / step);
  for (let i = 0; i < count; i++) {
    segment(0xe2, bytesOf("ICC_PROFILE\0"), Uint8Array.of(i + 1, count), profile.subarray(i * step, (i + 1) * step));
  }
  return [...parts, file.slice(rest)];
}

function* pngChunks(file) { // [type, position of the chunk, position of the content, end of the content]
  const view = viewOf(file);
  for (let at = 8; at + 12 <= file.length;) {
    const end = at + 8 + view.getUint32(at);
    yield [latin(file.subarray(at + 4, at + 8)), at, at + 8, end];
    at = end + 4;
  }
}

async function readPng(file) {
  const found = {type: "image/png", exif: null, profile: null};
  const view = viewOf(file);
  for (const [type, start, at, end] of pngChunks(file)) {
    if (type === "IHDR") {
      Object.assign(found, {width: view.getUint32(at), height: view.getUint32(at + 4), grey: !(file[at + 9] & 2)});
    } else if (type === "eXIf") {
      Object.assign(found, {exif: file.slice(at, end), atExif: start + 4});
    } else if (type === "iCCP") {
      const name = file.indexOf(0, at);
      found.profile = await through(new DecompressionStream("deflate"), file.slice(name + 2, end)).catch(() => null);
    }
  }
  return found;
}

async function writePng(file, exif, profile) {
  const parts = [];
  const chunk = (type, content) => {
    const body = joined([bytesOf(type), content]), numbers = new DataView(new ArrayBuffer(8));
    numbers.setUint32(0, content.length);
    numbers.setUint32(4, crc32(body));
    parts.push(new Uint8Array(numbers.buffer, 0, 4), body, new Uint8Array(numbers.buffer, 4, 4));
  };
  parts.push(file.slice(0, 8));
  for (const [type, at, , end] of pngChunks(file)) {
    if (["eXIf", "iCCP", "sRGB", "gAMA", "cHRM"].includes(type)) continue;
    parts.push(file.slice(at, end + 4));
    if (type !== "IHDR") continue;
    if (profile) {
      chunk("iCCP", joined([bytesOf("ICC profile\0\0"), await through(new CompressionStream("deflate"), profile)]));
    }
    if (exif) chunk("eXIf", exif);
  }
  return parts;
}

function* riffChunks(file) { // [type, position of the content, end of the content]
  const view = viewOf(file);
  for (let at = 12; at + 8 <= file.length;) {
    const end = at + 8 + view.getUint32(at + 4, true);
    yield [latin(file.subarray(at, at + 4)), at + 8, end];
    at = end + (end & 1);
  }
}

function readWebp(file) {
  const found = {type: "image/webp", exif: null, profile: null, grey: false};
  const view = viewOf(file);
  const sized = (width, height) => found.width || Object.assign(found, {width, height});
  for (const [type, at, end] of riffChunks(file)) {
    if (type === "VP8X") {
      sized((view.getUint32(at + 4, true) & 0xffffff) + 1, (view.getUint32(at + 6, true) >> 8) + 1);
    } else if (type === "VP8 ") {
      sized(view.getUint16(at + 6, true) & 0x3fff, view.getUint16(at + 8, true) & 0x3fff);
    } else if (type === "VP8L") {
      const bits = view.getUint32(at + 1, true);
      sized((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1);
      found.alpha = Boolean(bits >> 28 & 1);
    } else if (type === "EXIF") {
      const from = latin(file.subarray(at, at + 4)) === "Exif" ? at + 6 : at;
      Object.assign(found, {exif: file.slice(from, end), atExif: at - 8});
    } else if (type === "ICCP") {
      found.profile = file.slice(at, end);
    }
  }
  return found;
}

async function writeWebp(file, exif, profile) {
  const {width, height, alpha} = readWebp(file);
  const chunks = [...riffChunks(file)];
  const hasAlpha = alpha || chunks.some(([type]) => type === "ALPH");
  const parts = [];
  const chunk = (type, content) => {
    const length = new DataView(new ArrayBuffer(4));
    length.setUint32(0, content.length, true);
    parts.push(bytesOf(type), new Uint8Array(length.buffer), content, new Uint8Array(content.length & 1));
  };
  const head = new DataView(new ArrayBuffer(10));
  head.setUint8(0, (profile ? 0x20 : 0) | (hasAlpha ? 0x10 : 0) | (exif ? 0x08 : 0));
  head.setUint16(4, (width - 1) & 0xffff, true);
  head.setUint8(6, (width - 1) >> 16);
  head.setUint16(7, (height - 1) & 0xffff, true);
  head.setUint8(9, (height - 1) >> 16);
  chunk("VP8X", new Uint8Array(head.buffer));
  if (profile) chunk("ICCP", profile);
  for (const [type, at, end] of chunks) if (["VP8 ", "VP8L", "ALPH"].includes(type)) chunk(type, file.slice(at, end));
  if (exif) chunk("EXIF", exif);
  const size = new DataView(new ArrayBuffer(4));
  size.setUint32(0, 4 + parts.reduce((sum, part) => sum + part.length, 0), true);
  return [bytesOf("RIFF"), new Uint8Array(size.buffer), bytesOf("WEBP"), ...parts];
}

const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

function joined(parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

async function through(stream, bytes) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

const TABLE = Uint32Array.from({length: 256}, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ n >>> 1 : n >>> 1;
  return n;
});

/** The CRC-32 of zlib, as PNG and the board's protocol have it. */
export function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255] ^ crc >>> 8;
  return ~crc >>> 0;
}
