// What the page reads and changes in a .tflite file.
//
// Height and width are fixed in the file: the conversion writes models for one size. Nothing in a compact network depends on the size but the shapes of its
// maps, the windows of its pools over whole maps, and the size that its enlargement is told. `withSize` changes these
// numbers in a copy of the file; all weights stay. The file is a FlatBuffer of the schema of TFLite, in which a table
// starts with the distance to its list of fields.

const INT32 = 2; // TensorType
const AVERAGE_POOL_2D = 1, MAX_POOL_2D = 17, RESIZE_BILINEAR = 23; // BuiltinOperator

/**
 * Return a copy of a model whose input has `rows` x `columns` positions.
 *
 * @param {Uint8Array} file a model with one input (1, rows, columns, channels), of maps of this size, half of it, or 1x1
 * @param {number} rows even
 * @param {number} columns even
 * @returns {Uint8Array}
 * @throws {Error} the model has a map of another size
 */
export function withSize(file, rows, columns) {
  const bytes = file.slice();
  const {view, int, field, pointed, items, tables, codes, graph, tensors, dataOf} = opened(bytes);
  const shapeOf = (tensor) => items(tensor, 0).map(int);

  const [, oldRows, oldColumns] = shapeOf(tensors[int(items(graph, 1)[0])]);
  const changed = (value, old, now) => {
    if (value === 1) return 1;
    if (value === old) return now;
    if (2 * value === old) return now / 2;
    throw new Error(`the model has a map with a side of ${value}, which is neither ${old} nor half of it`);
  };
  const done = new Set(); // equal shapes are stored once
  const change = (atRows, atColumns) => {
    if (done.has(atRows)) return;
    done.add(atRows);
    view.setInt32(atRows, changed(int(atRows), oldRows, rows), true);
    view.setInt32(atColumns, changed(int(atColumns), oldColumns, columns), true);
  };

  for (const tensor of tensors) {
    if (dataOf(tensor)[1]) continue; // a constant
    for (const id of [0, 7]) { // shape and, in some files, shape_signature
      const shape = items(tensor, id);
      if (shape.length === 4) change(shape[1], shape[2]);
    }
  }
  for (const operator of tables(graph, 3)) {
    const at = field(operator, 0), code = codes[at ? view.getUint32(at, true) : 0];
    if (code === AVERAGE_POOL_2D || code === MAX_POOL_2D) {
      const options = pointed(field(operator, 4));
      change(field(options, 2), field(options, 1)); // strides
      change(field(options, 4), field(options, 3)); // windows
    } else if (code === RESIZE_BILINEAR) {
      const [start] = dataOf(tensors[int(items(operator, 1)[1])]);
      change(start, start + 4);
    }
  }
  return bytes;
}

/**
 * Return the graph of a quantised model.
 *
 * @param {Uint8Array} file
 * @returns {{tensors: object[], operators: object[], input: number, output: number}} each tensor has its `shape`, `scale`
 *     and `zeroPoint`, all `scales` of a constant that has one for each channel, and a constant's `data`; each operator has
 *     its `code`, the numbers of its tensors `inputs` and `output`, and `options`, whose fields `int` and `byte` read
 */
export function graphOf(file) {
  const {view, int, field, pointed, items, tables, codes, graph, tensors, dataOf} = opened(file);
  const numbers = (table, id) => items(table, id).map(int);
  return {
    tensors: tensors.map((tensor) => {
      const [start, length] = dataOf(tensor), type = field(tensor, 1), known = field(tensor, 4);
      const scales = known ? items(pointed(known), 2).map((at) => view.getFloat32(at, true)) : [];
      const zeroPoints = known && field(pointed(known), 3); // of 64 bits, of which the low 32 are enough
      const bytes = file.slice(start, start + length).buffer;
      return {
        shape: numbers(tensor, 0), scales, scale: scales[0], zeroPoint: zeroPoints ? int(pointed(zeroPoints) + 4) : 0,
        data: length ? new (type && view.getInt8(type) === INT32 ? Int32Array : Int8Array)(bytes) : undefined,
      };
    }),
    operators: tables(graph, 3).map((operator) => {
      const at = field(operator, 0), options = field(operator, 4) && pointed(field(operator, 4));
      const option = (read) => (id, absent = 0) => (options && field(options, id) ? read(field(options, id)) : absent);
      return {
        code: codes[at ? view.getUint32(at, true) : 0], inputs: numbers(operator, 1).filter((number) => number >= 0),
        output: numbers(operator, 2)[0],
        options: {int: option(int), byte: option((place) => view.getInt8(place))},
      };
    }),
    input: numbers(graph, 1)[0],
    output: numbers(graph, 2)[0],
  };
}

/** Find the tables of a model. A field is known by its number in the schema. */
function opened(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const int = (at) => view.getInt32(at, true);
  const field = (table, id) => { // the position of a field, or 0 if the table does not have it
    const list = table - int(table), offset = 4 + 2 * id;
    const found = offset < view.getUint16(list, true) ? view.getUint16(list + offset, true) : 0;
    return found ? table + found : 0;
  };
  const pointed = (at) => at + int(at);
  const items = (table, id) => { // the positions of a vector's items of four bytes
    const at = field(table, id);
    if (!at) return [];
    const start = pointed(at);
    return Array.from({length: int(start)}, (_, i) => start + 4 + 4 * i);
  };
  const tables = (table, id) => items(table, id).map(pointed);

  const model = pointed(0);
  const codes = tables(model, 1).map((code) => { // the later field, or the one of a byte
    const [byte, later] = [field(code, 0), field(code, 3)];
    return Math.max(byte ? view.getInt8(byte) : 0, later ? int(later) : 0);
  });
  const [graph] = tables(model, 2);
  const buffers = tables(model, 4);
  const dataOf = (tensor) => { // the bytes of a constant: [position, length]
    const at = field(tensor, 2), start = field(buffers[at ? int(at) : 0], 0);
    return start ? [pointed(start) + 4, int(pointed(start))] : [0, 0];
  };
  return {view, int, field, pointed, items, tables, codes, graph, tensors: tables(graph, 0), dataOf};
}
