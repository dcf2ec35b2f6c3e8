// The page's side of the worker.

const worker = new Worker("worker.js");
const waiting = new Map();
let last = 0;

worker.onmessage = ({data: {id, result, fault}}) => {
  const {resolve, reject} = waiting.get(id);
  waiting.delete(id);
  if (fault) reject(new Error(fault));
  else resolve(result);
};
worker.onerror = (event) => {
  event.preventDefault();
  for (const {reject} of waiting.values()) reject(new Error("The worker has stopped: reload the page."));
  waiting.clear();
};

/**
 * Let the worker do something.
 *
 * @param {string} task a name in worker.js
 * @param {object} given what the task takes
 * @param {Transferable[]} [handed] what of it changes hands
 * @returns {Promise<object>} rejects with an Error whose message is for the visitor
 */
export function ask(task, given = {}, handed = []) {
  const id = ++last;
  return new Promise((resolve, reject) => {
    waiting.set(id, {resolve, reject});
    worker.postMessage({id, task, ...given}, handed);
  });
}
