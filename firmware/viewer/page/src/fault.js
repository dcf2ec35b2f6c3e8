/** A sentence for the visitor: what is wrong, and what to do. */
export class Fault extends Error {}
